// ---- shader 0, step 0: greater+logical_and+where
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read> b1: array<f32>;
@group(0) @binding(2) var<storage, read> b2: array<u32>;
@group(0) @binding(3) var<storage, read_write> b3: array<f32>;

fn apply(i: u32) {
  let t0 = b0[i];
  let t1 = b1[i];
  let t2 = (u32(t0 > t1));
  let t3 = extractBits(b2[(i / 4u)], ((i % 4u) * 8u), 8u);
  let t4 = (u32((t2 != u32(0)) & (t3 != u32(0))));
  let t5 = select(t1, t0, t4 != u32(0));
  b3[i] = t5;
}

@compute @workgroup_size(16, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 16u + lid;
  if (i < 15u) {
    apply(i);
  }
}
