// ---- shader 0, step 0: reduce_max
fn infinity() -> f32 {
  var word = 0x7f800000u;
  return bitcast<f32>(word);
}

fn nan() -> f32 {
  var word = 0x7fc00000u;
  return bitcast<f32>(word);
}

@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<f32>;

fn load_x(i: u32, r: u32) -> f32 {
  let t0 = b0[(r * 650u + i)];
  return t0;
}
fn store_y(i: u32, v: f32) {
  b1[i] = v;
}

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let column = lid % 16u;
  let lane = lid / 16u;
  let i = group * 16u + column;
  var acc = f32(-infinity());
  var worst = u32(0u);
  if (i < 650u) {
    for (var r = lane; r < 4u; r += 4u) {
      let x = f32(load_x(i, r));
      acc = max(acc, x);
      worst = max(worst, (bitcast<u32>(x) & u32(0x7fffffffu)));
    }
  }
  acc = select(acc, f32(nan()), worst > u32(0x7f800000u));
  partial[lid] = acc;
  for (var half = 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      let a = partial[lid];
      let b = partial[lid + half * 16u];
      partial[lid] = select(max(a, b), f32(nan()), max((bitcast<u32>(a) & u32(0x7fffffffu)), (bitcast<u32>(b) & u32(0x7fffffffu))) > u32(0x7f800000u));
    }
  }
  acc = partial[lid];
  if (lane == 0u && i < 650u) {
    store_y(i, acc);
  }
}

// ---- shader 1, step 1: reduce_l2
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<f32>;

fn load_x(i: u32, r: u32) -> f32 {
  let t0 = b0[(i * 130u + r)];
  return t0;
}
fn store_y(i: u32, v: f32) {
  b1[i] = v;
}

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let column = lid % 1u;
  let lane = lid / 1u;
  let i = group * 1u + column;
  var acc = f32(0.0);
  if (i < 5u) {
    for (var r = lane; r < 130u; r += 256u) {
      let x = (f32(load_x(i, r)) * f32(load_x(i, r)));
      acc = (acc + x);
    }
  }
  partial[lid] = acc;
  for (var half = 128u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      let a = partial[lid];
      let b = partial[lid + half * 1u];
      partial[lid] = (a + b);
    }
  }
  acc = partial[lid];
  if (lane == 0u && i < 5u) {
    store_y(i, sqrt(acc));
  }
}
