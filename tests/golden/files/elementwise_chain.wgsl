// ---- shader 0, step 0: add+sigmoid+clamp+mul
@group(0) @binding(0) var<storage, read> b0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b1: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> b2: array<vec4<f32>>;

fn apply(i: u32) {
  let t0 = b0[i];
  let t1 = b1[(i % 2u)];
  let t2 = (t0 + t1);
  let t3 = (vec4<f32>(1) / (vec4<f32>(1) + exp(-t2)));
  let t4 = select(select(select(t3, vec4<f32>(0.25f), t3 < vec4<f32>(0.25f)), vec4<f32>(0.75f), t3 > vec4<f32>(0.75f)), t3, ((bitcast<vec4<u32>>(vec4<f32>(t3)) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u)));
  let t5 = f32(1.5f);
  let t6 = vec4<f32>(t5);
  let t7 = (t4 * t6);
  b2[i] = t7;
}

@compute @workgroup_size(8, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 8u + lid;
  if (i < 6u) {
    apply(i);
  }
}
