// ---- shader 0, step 0: transpose+average_pool2d
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<vec4<f32>>;

fn load_x(i: u32, k: u32) -> vec4<f32> {
  var t0 = vec4<f32>(0.0);
  if (((i / 14u) + (k / 3u) - 1u) < 7u && (((i / 2u) % 7u) + (k % 3u) - 1u) < 7u) {
    let t1 = b0[((i % 2u) * 196u + (k / 3u) * 7u + (i / 2u) + (k % 3u) - 8u)];
    let t2 = b0[((i % 2u) * 196u + (k / 3u) * 7u + (i / 2u) + (k % 3u) + 41u)];
    let t3 = b0[((i % 2u) * 196u + (k / 3u) * 7u + (i / 2u) + (k % 3u) + 90u)];
    let t4 = b0[((i % 2u) * 196u + (k / 3u) * 7u + (i / 2u) + (k % 3u) + 139u)];
    let t5 = vec4<f32>(t1, t2, t3, t4);
    t0 = t5;
  }
  return t0;
}
fn valid(i: u32) -> f32 {
  var n = 0.0;
  for (var k = 0u; k < 9u; k++) {
    if (((i / 14u) + (k / 3u) - 1u) < 7u && (((i / 2u) % 7u) + (k % 3u) - 1u) < 7u) { n += 1.0; }
  }
  return n;
}
fn store_y(i: u32, v: vec4<f32>) {
  b1[i] = v;
}

@compute @workgroup_size(64, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 64u + lid;
  if (i < 98u) {
    var acc = vec4<f32>(0.0);
    for (var k = 0u; k < 9u; k++) {
      let x = vec4<f32>(load_x(i, k));
      acc = (acc + x);
    }
    store_y(i, (acc / vec4<f32>(valid(i))));
  }
}

// ---- shader 1, step 1: reduce_mean
@group(0) @binding(0) var<storage, read> b0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> b1: array<vec4<f32>>;

fn load_x(i: u32, r: u32) -> vec4<f32> {
  let t0 = b0[(r * 2u + i)];
  return t0;
}
fn store_y(i: u32, v: vec4<f32>) {
  b1[i] = v;
}

var<workgroup> partial: array<vec4<f32>, 64>;

@compute @workgroup_size(64, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let column = lid % 1u;
  let lane = lid / 1u;
  let i = group * 1u + column;
  var acc = vec4<f32>(0.0);
  if (i < 2u) {
    for (var r = lane; r < 49u; r += 64u) {
      let x = vec4<f32>(load_x(i, r));
      acc = (acc + x);
    }
  }
  partial[lid] = acc;
  for (var half = 32u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      let a = partial[lid];
      let b = partial[lid + half * 1u];
      partial[lid] = (a + b);
    }
  }
  acc = partial[lid];
  if (lane == 0u && i < 2u) {
    store_y(i, (acc / vec4<f32>(49.0f)));
  }
}
