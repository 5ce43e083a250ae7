// ---- shader 0, step 0: exp+sub
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read> b1: array<f32>;
@group(0) @binding(2) var<storage, read_write> b2: array<f32>;

fn apply(i: u32) {
  let t0 = b0[i];
  let t1 = (exp(t0));
  let t2 = b1[(i / 7u)];
  let t3 = (t1 - t2);
  b2[i] = t3;
}

@compute @workgroup_size(64, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 64u + lid;
  if (i < 35u) {
    apply(i);
  }
}
