// ---- shader 0, step 0: transpose+conv2d+relu+transpose
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read> b1: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> b3: array<f32>;

fn load_x(i: u32, k: u32) -> vec4<f32> {
  var t0 = vec4<f32>(0);
  if (((i / 18u) + (k / 3u) - 1u) < 9u && (((i / 2u) % 9u) + (k % 3u) - 1u) < 9u) {
    let t1 = b0[((i % 2u) * 324u + (k / 3u) * 9u + (i / 2u) + (k % 3u) - 10u)];
    let t2 = b0[((i % 2u) * 324u + (k / 3u) * 9u + (i / 2u) + (k % 3u) + 71u)];
    let t3 = b0[((i % 2u) * 324u + (k / 3u) * 9u + (i / 2u) + (k % 3u) + 152u)];
    let t4 = b0[((i % 2u) * 324u + (k / 3u) * 9u + (i / 2u) + (k % 3u) + 233u)];
    let t5 = vec4<f32>(t1, t2, t3, t4);
    t0 = t5;
  }
  return t0;
}
fn load_w(i: u32, k: u32) -> vec4<f32> {
  let t0 = b1[(k * 2u + (i % 2u))];
  return t0;
}
fn store_y(i: u32, v: vec4<f32>) {
  let t0 = b2[(i % 2u)];
  let t1 = v + vec4<f32>(t0);
  let t2 = select(t1, vec4<f32>(0), ((bitcast<vec4<u32>>(vec4<f32>(t1)) - vec4<u32>(0x80000001u)) <= vec4<u32>(0x7f7fffffu)));
  b3[((i % 2u) * 324u + (i / 2u))] = t2.x;
  b3[((i % 2u) * 324u + (i / 2u) + 81u)] = t2.y;
  b3[((i % 2u) * 324u + (i / 2u) + 162u)] = t2.z;
  b3[((i % 2u) * 324u + (i / 2u) + 243u)] = t2.w;
}

@compute @workgroup_size(64, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 64u + lid;
  if (i < 162u) {
    var acc = vec4<f32>(0.0);
    for (var k = 0u; k < 9u; k++) {
      let x = vec4<f32>(load_x(i, k)) * vec4<f32>(load_w(i, k));
      acc = (acc + x);
    }
    store_y(i, acc);
  }
}
