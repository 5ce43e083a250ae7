// ---- shader 0, step 0: relu+update_slice update
@group(0) @binding(0) var<storage, read> b0: array<i32>;
@group(0) @binding(1) var<storage, read> b1: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> b2: array<vec4<f32>>;

fn apply(i: u32) {
  let t0 = b0[0u];
  let t1 = u32(clamp(select(t0, t0 + 6i, t0 < 0i), 0i, 5i));
  let t2 = b1[i];
  let t3 = select(t2, vec4<f32>(0), ((bitcast<vec4<u32>>(vec4<f32>(t2)) - vec4<u32>(0x80000001u)) <= vec4<u32>(0x7f7fffffu)));
  b2[((i / 3u) * 8u + (i % 3u) + t1)] = t3;
}

@compute @workgroup_size(8, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 8u + lid;
  if (i < 6u) {
    apply(i);
  }
}
