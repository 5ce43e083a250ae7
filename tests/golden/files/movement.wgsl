// ---- shader 0, step 0: pad+slice+transpose+relu
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<vec4<f32>>;

fn apply(i: u32) {
  var t0 = f32(0.5f);
  if (((i % 2u) * 4u - 1u) < 5u) {
    let t1 = b0[((i % 2u) * 32u + (i / 2u) - 8u)];
    t0 = t1;
  }
  var t2 = f32(0.5f);
  if (((i % 2u) * 4u - 1u) < 5u) {
    let t3 = b0[((i % 2u) * 32u + (i / 2u) + 32u)];
    t2 = t3;
  }
  var t4 = f32(0.5f);
  if (((i % 2u) * 4u + 2u) < 6u) {
    let t5 = b0[((i % 2u) * 32u + (i / 2u) + 8u)];
    t4 = t5;
  }
  var t6 = f32(0.5f);
  if (((i % 2u) * 4u + 2u) < 6u) {
    let t7 = b0[((i % 2u) * 32u + (i / 2u) + 48u)];
    t6 = t7;
  }
  let t8 = vec4<f32>(t0, t2, t4, t6);
  let t9 = select(t8, vec4<f32>(0), ((bitcast<vec4<u32>>(vec4<f32>(t8)) - vec4<u32>(0x80000001u)) <= vec4<u32>(0x7f7fffffu)));
  b1[i] = t9;
}

@compute @workgroup_size(16, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 16u + lid;
  if (i < 16u) {
    apply(i);
  }
}
