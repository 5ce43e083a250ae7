// ---- shader 0, step 0: transpose x
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read_write> b1: array<vec4<f32>>;

fn apply(i: u32) {
  let t0 = b0[((i % 4u) * 256u + (i / 4u))];
  let t1 = b0[((i % 4u) * 256u + (i / 4u) + 64u)];
  let t2 = b0[((i % 4u) * 256u + (i / 4u) + 128u)];
  let t3 = b0[((i % 4u) * 256u + (i / 4u) + 192u)];
  let t4 = vec4<f32>(t0, t1, t2, t3);
  b1[i] = t4;
}

@compute @workgroup_size(64, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 64u + lid;
  if (i < 256u) {
    apply(i);
  }
}

// ---- shader 1, step 1: conv2d+relu
@group(0) @binding(0) var<storage, read> b0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b1: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> b3: array<vec4<f32>>;

fn load_a(z: u32, m: u32, k: u32) -> vec4<f32> {
  let t0 = b0[(m * 4u + k)];
  return t0;
}
fn load_b(z: u32, k: u32, n: u32) -> vec4<f32> {
  var t0 = vec4<f32>(0);
  if ((n * 4u) < 8u) {
    let t1 = b1[(k * 2u + n)];
    t0 = t1;
  }
  return t0;
}
fn store_c(s: u32, z: u32, m: u32, n: u32, v: vec4<f32>) {
  if ((n * 4u) < 8u) {
    let t0 = b2[n];
    let t1 = v + vec4<f32>(t0);
    let t2 = select(t1, vec4<f32>(0), ((bitcast<vec4<u32>>(vec4<f32>(t1)) - vec4<u32>(0x80000001u)) <= vec4<u32>(0x7f7fffffu)));
    b3[(m * 5u + n)] = t2;
  }
}

var<workgroup> tile: array<vec4<f32>, 384>;

@compute @workgroup_size(128, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let tile_n = group % 1u;
  let tile_m = (group / 1u) % 2u;
  let split = (group / 2u) % 1u;
  let batch = group / 2u;
  let member = lid;
  let col = member % 16u;
  let row = member / 16u;
  var c0_0 = vec4<f32>(0.0);
  var c1_0 = vec4<f32>(0.0);
  var c2_0 = vec4<f32>(0.0);
  var c3_0 = vec4<f32>(0.0);
  let k_begin = split * 16u;
  let k_stop = 16u;
  for (var k = k_begin; k < k_stop; k += 16u) {
{
      let i = lid + 0u;
      tile[(i / 4u) * 4u + ((i % 4u) ^ ((i / 4u) & 3u))] = vec4<f32>(load_a(batch, tile_m * 32u + i / 4u, k / 4u + i % 4u));
    }
{
      let i = lid + 0u;
      tile[128u + i] = vec4<f32>(load_b(batch, k + i / 16u, tile_n * 16u + i % 16u));
    }
{
      let i = lid + 128u;
      tile[128u + i] = vec4<f32>(load_b(batch, k + i / 16u, tile_n * 16u + i % 16u));
    }
    workgroupBarrier();
      {
        let a0 = tile[(row + 0u) * 4u + ((0u) ^ ((row + 0u) & 3u))];
        let a1 = tile[(row + 8u) * 4u + ((0u) ^ ((row + 8u) & 3u))];
        let a2 = tile[(row + 16u) * 4u + ((0u) ^ ((row + 16u) & 3u))];
        let a3 = tile[(row + 24u) * 4u + ((0u) ^ ((row + 24u) & 3u))];
        {
          let b0 = tile[128u + (0u * 4u + 0u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[128u + (0u * 4u + 1u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[128u + (0u * 4u + 2u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[128u + (0u * 4u + 3u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

      {
        let a0 = tile[(row + 0u) * 4u + ((1u) ^ ((row + 0u) & 3u))];
        let a1 = tile[(row + 8u) * 4u + ((1u) ^ ((row + 8u) & 3u))];
        let a2 = tile[(row + 16u) * 4u + ((1u) ^ ((row + 16u) & 3u))];
        let a3 = tile[(row + 24u) * 4u + ((1u) ^ ((row + 24u) & 3u))];
        {
          let b0 = tile[128u + (1u * 4u + 0u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[128u + (1u * 4u + 1u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[128u + (1u * 4u + 2u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[128u + (1u * 4u + 3u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

      {
        let a0 = tile[(row + 0u) * 4u + ((2u) ^ ((row + 0u) & 3u))];
        let a1 = tile[(row + 8u) * 4u + ((2u) ^ ((row + 8u) & 3u))];
        let a2 = tile[(row + 16u) * 4u + ((2u) ^ ((row + 16u) & 3u))];
        let a3 = tile[(row + 24u) * 4u + ((2u) ^ ((row + 24u) & 3u))];
        {
          let b0 = tile[128u + (2u * 4u + 0u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[128u + (2u * 4u + 1u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[128u + (2u * 4u + 2u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[128u + (2u * 4u + 3u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

      {
        let a0 = tile[(row + 0u) * 4u + ((3u) ^ ((row + 0u) & 3u))];
        let a1 = tile[(row + 8u) * 4u + ((3u) ^ ((row + 8u) & 3u))];
        let a2 = tile[(row + 16u) * 4u + ((3u) ^ ((row + 16u) & 3u))];
        let a3 = tile[(row + 24u) * 4u + ((3u) ^ ((row + 24u) & 3u))];
        {
          let b0 = tile[128u + (3u * 4u + 0u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[128u + (3u * 4u + 1u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[128u + (3u * 4u + 2u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[128u + (3u * 4u + 3u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

    workgroupBarrier();
  }
  store_c(split, batch, tile_m * 32u + row + 0u, tile_n * 16u + col + 0u, c0_0);
  store_c(split, batch, tile_m * 32u + row + 8u, tile_n * 16u + col + 0u, c1_0);
  store_c(split, batch, tile_m * 32u + row + 16u, tile_n * 16u + col + 0u, c2_0);
  store_c(split, batch, tile_m * 32u + row + 24u, tile_n * 16u + col + 0u, c3_0);
}

// ---- shader 2, step 2: conv2d+relu
@group(0) @binding(0) var<storage, read> b0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b1: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> b3: array<vec4<f32>>;

fn load_a(z: u32, m: u32, k: u32) -> vec4<f32> {
  let t0 = b0[(m * 4u + k)];
  return t0;
}
fn load_b(z: u32, k: u32, n: u32) -> vec4<f32> {
  var t0 = vec4<f32>(0);
  if ((n * 4u) < 12u) {
    let t1 = b1[(k * 3u + n)];
    t0 = t1;
  }
  return t0;
}
fn store_c(s: u32, z: u32, m: u32, n: u32, v: vec4<f32>) {
  if ((n * 4u) < 12u) {
    let t0 = b2[n];
    let t1 = v + vec4<f32>(t0);
    let t2 = select(t1, vec4<f32>(0), ((bitcast<vec4<u32>>(vec4<f32>(t1)) - vec4<u32>(0x80000001u)) <= vec4<u32>(0x7f7fffffu)));
    b3[(m * 5u + n + 2u)] = t2;
  }
}

var<workgroup> tile: array<vec4<f32>, 384>;

@compute @workgroup_size(128, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let tile_n = group % 1u;
  let tile_m = (group / 1u) % 2u;
  let split = (group / 2u) % 1u;
  let batch = group / 2u;
  let member = lid;
  let col = member % 16u;
  let row = member / 16u;
  var c0_0 = vec4<f32>(0.0);
  var c1_0 = vec4<f32>(0.0);
  var c2_0 = vec4<f32>(0.0);
  var c3_0 = vec4<f32>(0.0);
  let k_begin = split * 16u;
  let k_stop = 16u;
  for (var k = k_begin; k < k_stop; k += 16u) {
{
      let i = lid + 0u;
      tile[(i / 4u) * 4u + ((i % 4u) ^ ((i / 4u) & 3u))] = vec4<f32>(load_a(batch, tile_m * 32u + i / 4u, k / 4u + i % 4u));
    }
{
      let i = lid + 0u;
      tile[128u + i] = vec4<f32>(load_b(batch, k + i / 16u, tile_n * 16u + i % 16u));
    }
{
      let i = lid + 128u;
      tile[128u + i] = vec4<f32>(load_b(batch, k + i / 16u, tile_n * 16u + i % 16u));
    }
    workgroupBarrier();
      {
        let a0 = tile[(row + 0u) * 4u + ((0u) ^ ((row + 0u) & 3u))];
        let a1 = tile[(row + 8u) * 4u + ((0u) ^ ((row + 8u) & 3u))];
        let a2 = tile[(row + 16u) * 4u + ((0u) ^ ((row + 16u) & 3u))];
        let a3 = tile[(row + 24u) * 4u + ((0u) ^ ((row + 24u) & 3u))];
        {
          let b0 = tile[128u + (0u * 4u + 0u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[128u + (0u * 4u + 1u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[128u + (0u * 4u + 2u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[128u + (0u * 4u + 3u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

      {
        let a0 = tile[(row + 0u) * 4u + ((1u) ^ ((row + 0u) & 3u))];
        let a1 = tile[(row + 8u) * 4u + ((1u) ^ ((row + 8u) & 3u))];
        let a2 = tile[(row + 16u) * 4u + ((1u) ^ ((row + 16u) & 3u))];
        let a3 = tile[(row + 24u) * 4u + ((1u) ^ ((row + 24u) & 3u))];
        {
          let b0 = tile[128u + (1u * 4u + 0u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[128u + (1u * 4u + 1u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[128u + (1u * 4u + 2u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[128u + (1u * 4u + 3u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

      {
        let a0 = tile[(row + 0u) * 4u + ((2u) ^ ((row + 0u) & 3u))];
        let a1 = tile[(row + 8u) * 4u + ((2u) ^ ((row + 8u) & 3u))];
        let a2 = tile[(row + 16u) * 4u + ((2u) ^ ((row + 16u) & 3u))];
        let a3 = tile[(row + 24u) * 4u + ((2u) ^ ((row + 24u) & 3u))];
        {
          let b0 = tile[128u + (2u * 4u + 0u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[128u + (2u * 4u + 1u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[128u + (2u * 4u + 2u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[128u + (2u * 4u + 3u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

      {
        let a0 = tile[(row + 0u) * 4u + ((3u) ^ ((row + 0u) & 3u))];
        let a1 = tile[(row + 8u) * 4u + ((3u) ^ ((row + 8u) & 3u))];
        let a2 = tile[(row + 16u) * 4u + ((3u) ^ ((row + 16u) & 3u))];
        let a3 = tile[(row + 24u) * 4u + ((3u) ^ ((row + 24u) & 3u))];
        {
          let b0 = tile[128u + (3u * 4u + 0u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[128u + (3u * 4u + 1u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[128u + (3u * 4u + 2u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[128u + (3u * 4u + 3u) * 16u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

    workgroupBarrier();
  }
  store_c(split, batch, tile_m * 32u + row + 0u, tile_n * 16u + col + 0u, c0_0);
  store_c(split, batch, tile_m * 32u + row + 8u, tile_n * 16u + col + 0u, c1_0);
  store_c(split, batch, tile_m * 32u + row + 16u, tile_n * 16u + col + 0u, c2_0);
  store_c(split, batch, tile_m * 32u + row + 24u, tile_n * 16u + col + 0u, c3_0);
}

// ---- shader 3, step 3: max_pool2d+transpose
fn infinity() -> f32 {
  var word = 0x7f800000u;
  return bitcast<f32>(word);
}

fn nan() -> f32 {
  var word = 0x7fc00000u;
  return bitcast<f32>(word);
}

@group(0) @binding(0) var<storage, read> b0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> b1: array<f32>;

fn load_x(i: u32, k: u32) -> vec4<f32> {
  let t0 = b0[((i / 30u) * 40u + (k / 3u) * 40u + ((i / 5u) % 6u) * 5u + (k % 3u) * 5u + (i % 5u))];
  return t0;
}
fn store_y(i: u32, v: vec4<f32>) {
  b1[((i % 5u) * 144u + (i / 5u))] = v.x;
  b1[((i % 5u) * 144u + (i / 5u) + 36u)] = v.y;
  b1[((i % 5u) * 144u + (i / 5u) + 72u)] = v.z;
  b1[((i % 5u) * 144u + (i / 5u) + 108u)] = v.w;
}

@compute @workgroup_size(64, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 64u + lid;
  if (i < 180u) {
    var acc = vec4<f32>(-infinity());
    var worst = vec4<u32>(0u);
    for (var k = 0u; k < 9u; k++) {
      let x = vec4<f32>(load_x(i, k));
      acc = max(acc, x);
      worst = max(worst, (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)));
    }
    acc = select(acc, vec4<f32>(nan()), worst > vec4<u32>(0x7f800000u));
    store_y(i, acc);
  }
}
