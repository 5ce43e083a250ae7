// ---- shader 0, step 0: gemm+relu
@group(0) @binding(0) var<storage, read> b0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b1: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b2: array<f32>;
@group(0) @binding(3) var<storage, read_write> b3: array<f32>;

fn load_a(z: u32, m: u32, k: u32) -> vec4<f32> {
  let t0 = b0[(m * 64u + k)];
  return t0;
}
fn load_b(z: u32, n: u32, k: u32) -> vec4<f32> {
  let t0 = b1[(n * 64u + k)];
  return t0;
}
fn store_c(z: u32, m: u32, n: u32, v: f32) {
  let t0 = b2[n];
  let t1 = v + f32(t0);
  let t2 = select(t1, f32(0), ((bitcast<u32>(f32(t1)) - u32(0x80000001u)) <= u32(0x7f7fffffu)));
  b3[(m * 40u + n)] = t2;
}

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(16, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let z = 0u;
  let first = group * 2u;
  var c0 = 0.0;
  var c1 = 0.0;
  var c2 = 0.0;
  var c3 = 0.0;
  for (var k = lid; k < 64u; k += 16u) {
    let a0 = vec4<f32>(load_a(z, 0u, k));
    let a1 = vec4<f32>(load_a(z, 1u, k));
    let b0 = vec4<f32>(load_b(z, first + 0u, k));
    c0 += dot(a0, b0);
    c2 += dot(a1, b0);
    let b1 = vec4<f32>(load_b(z, first + 1u, k));
    c1 += dot(a0, b1);
    c3 += dot(a1, b1);
  }
  partial[0u + lid] = c0;
  partial[16u + lid] = c1;
  partial[32u + lid] = c2;
  partial[48u + lid] = c3;
  for (var half = 8u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lid < half) {
      partial[0u + lid] += partial[0u + lid + half];
      partial[16u + lid] += partial[16u + lid + half];
      partial[32u + lid] += partial[32u + lid + half];
      partial[48u + lid] += partial[48u + lid + half];
    }
  }
  workgroupBarrier();
  if (lid < 4u) {
    let n = first + lid % 2u;
    if (n < 40u) {
      store_c(z, lid / 2u, n, partial[lid * 16u]);
    }
  }
}
