// ---- shader 0, step 0: greater
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<u32>;

fn apply(i: u32) {
  let t0 = b0[(i * 4u)];
  let t1 = f32(0.5f);
  let t2 = (u32(t0 > t1));
  let t3 = b0[(i * 4u + 1u)];
  let t4 = (u32(t3 > t1));
  let t5 = b0[(i * 4u + 2u)];
  let t6 = (u32(t5 > t1));
  var t7 = u32();
  if ((i * 4u + 3u) < 15u) {
    let t8 = b0[(i * 4u + 3u)];
    let t9 = (u32(t8 > t1));
    t7 = t9;
  }
  let t10 = vec4<u32>(t2, t4, t6, t7);
  b1[i] = dot(t10 & vec4<u32>(255u), vec4<u32>(1u, 256u, 65536u, 16777216u));
}

@compute @workgroup_size(4, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 4u + lid;
  if (i < 4u) {
    apply(i);
  }
}
