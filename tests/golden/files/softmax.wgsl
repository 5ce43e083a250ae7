// ---- shader 0, step 0: softmax
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<f32>;

fn load_x(i: u32, r: u32) -> f32 {
  let t0 = b0[(i * 70u + r)];
  return t0;
}
fn store_y(i: u32, r: u32, v: f32) {
  b1[(i * 70u + r)] = v;
}

var<workgroup> partial: array<f32, 128>;

@compute @workgroup_size(128, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  var acc = -3.4028234663852886e38;
  for (var r = lid; r < 70u; r += 128u) {
    acc = max(acc, f32(load_x(group, r)));
  }
  partial[lid] = acc;
  for (var half = 64u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lid < half) {
      let a = partial[lid];
      let b = partial[lid + half];
      partial[lid] = max(a, b);
    }
  }
  workgroupBarrier();

  let top = partial[0];
  workgroupBarrier();
  acc = 0.0;
  for (var r = lid; r < 70u; r += 128u) {
    acc += exp(f32(load_x(group, r)) - top);
  }
  partial[lid] = acc;
  for (var half = 64u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lid < half) {
      let a = partial[lid];
      let b = partial[lid + half];
      partial[lid] = a + b;
    }
  }
  workgroupBarrier();

  let total = partial[0];
  for (var r = lid; r < 70u; r += 128u) {
    store_y(group, r, exp(f32(load_x(group, r)) - top) / total);
  }
}
