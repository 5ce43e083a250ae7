// ---- shader 0, step 0: transpose+conv2d
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read> b1: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> b3: array<vec4<f32>>;

fn load_a(z: u32, m: u32, k: u32) -> vec4<f32> {
  var t0 = vec4<f32>(0);
  if ((k * 4u) < 72u && ((k / 6u) + (m / 8u) - 1u) < 8u && (((k / 2u) % 3u) + (m % 8u) - 1u) < 8u) {
    let t1 = b0[((k % 2u) * 256u + (k / 6u) * 8u + ((k / 2u) % 3u) + m - 9u)];
    let t2 = b0[((k % 2u) * 256u + (k / 6u) * 8u + ((k / 2u) % 3u) + m + 55u)];
    let t3 = b0[((k % 2u) * 256u + (k / 6u) * 8u + ((k / 2u) % 3u) + m + 119u)];
    let t4 = b0[((k % 2u) * 256u + (k / 6u) * 8u + ((k / 2u) % 3u) + m + 183u)];
    let t5 = vec4<f32>(t1, t2, t3, t4);
    t0 = t5;
  }
  return t0;
}
fn load_b(z: u32, k: u32, n: u32) -> vec4<f32> {
  var t0 = vec4<f32>(0);
  if (k < 72u && (n * 4u) < 8u) {
    let t1 = b1[(k * 2u + n)];
    t0 = t1;
  }
  return t0;
}
fn store_c(s: u32, z: u32, m: u32, n: u32, v: vec4<f32>) {
  if ((n * 4u) < 8u) {
    let t0 = b2[n];
    let t1 = v + vec4<f32>(t0);
    b3[(m * 2u + n)] = t1;
  }
}

var<workgroup> tile: array<vec4<f32>, 1024>;

@compute @workgroup_size(256, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let tile_n = group % 1u;
  let tile_m = (group / 1u) % 4u;
  let split = (group / 4u) % 1u;
  let batch = group / 4u;
  let slice = lid / 16u;
  let member = lid % 16u;
  let col = member % 4u;
  let row = member / 4u;
  var c0_0 = vec4<f32>(0.0);
  var c1_0 = vec4<f32>(0.0);
  var c2_0 = vec4<f32>(0.0);
  var c3_0 = vec4<f32>(0.0);
  let k_begin = split * 128u;
  let k_stop = 128u;
  for (var k = k_begin; k < k_stop; k += 128u) {
{
      let i = lid + 0u;
      tile[(i / 32u) * 32u + ((i % 32u) ^ ((i / 32u) & 31u))] = vec4<f32>(load_a(batch, tile_m * 16u + i / 32u, k / 4u + i % 32u));
    }
{
      let i = lid + 256u;
      tile[(i / 32u) * 32u + ((i % 32u) ^ ((i / 32u) & 31u))] = vec4<f32>(load_a(batch, tile_m * 16u + i / 32u, k / 4u + i % 32u));
    }
{
      let i = lid + 0u;
      tile[512u + i] = vec4<f32>(load_b(batch, k + i / 4u, tile_n * 4u + i % 4u));
    }
{
      let i = lid + 256u;
      tile[512u + i] = vec4<f32>(load_b(batch, k + i / 4u, tile_n * 4u + i % 4u));
    }
    workgroupBarrier();
      {
        let a0 = tile[(row + 0u) * 32u + (((slice * 2u + 0u)) ^ ((row + 0u) & 31u))];
        let a1 = tile[(row + 4u) * 32u + (((slice * 2u + 0u)) ^ ((row + 4u) & 31u))];
        let a2 = tile[(row + 8u) * 32u + (((slice * 2u + 0u)) ^ ((row + 8u) & 31u))];
        let a3 = tile[(row + 12u) * 32u + (((slice * 2u + 0u)) ^ ((row + 12u) & 31u))];
        {
          let b0 = tile[512u + ((slice * 2u + 0u) * 4u + 0u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 0u) * 4u + 1u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 0u) * 4u + 2u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 0u) * 4u + 3u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

      {
        let a0 = tile[(row + 0u) * 32u + (((slice * 2u + 1u)) ^ ((row + 0u) & 31u))];
        let a1 = tile[(row + 4u) * 32u + (((slice * 2u + 1u)) ^ ((row + 4u) & 31u))];
        let a2 = tile[(row + 8u) * 32u + (((slice * 2u + 1u)) ^ ((row + 8u) & 31u))];
        let a3 = tile[(row + 12u) * 32u + (((slice * 2u + 1u)) ^ ((row + 12u) & 31u))];
        {
          let b0 = tile[512u + ((slice * 2u + 1u) * 4u + 0u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 1u) * 4u + 1u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 1u) * 4u + 2u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 1u) * 4u + 3u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

    workgroupBarrier();
  }
  if (slice >= 8u) {
    tile[0u + lid - 128u] = c0_0;
    tile[128u + lid - 128u] = c1_0;
    tile[256u + lid - 128u] = c2_0;
    tile[384u + lid - 128u] = c3_0;
  }
  workgroupBarrier();
  if (slice < 8u) {
    c0_0 += tile[0u + lid];
    c1_0 += tile[128u + lid];
    c2_0 += tile[256u + lid];
    c3_0 += tile[384u + lid];
  }
  workgroupBarrier();
  if (slice >= 4u && slice < 8u) {
    tile[0u + lid - 64u] = c0_0;
    tile[64u + lid - 64u] = c1_0;
    tile[128u + lid - 64u] = c2_0;
    tile[192u + lid - 64u] = c3_0;
  }
  workgroupBarrier();
  if (slice < 4u) {
    c0_0 += tile[0u + lid];
    c1_0 += tile[64u + lid];
    c2_0 += tile[128u + lid];
    c3_0 += tile[192u + lid];
  }
  workgroupBarrier();
  if (slice >= 2u && slice < 4u) {
    tile[0u + lid - 32u] = c0_0;
    tile[32u + lid - 32u] = c1_0;
    tile[64u + lid - 32u] = c2_0;
    tile[96u + lid - 32u] = c3_0;
  }
  workgroupBarrier();
  if (slice < 2u) {
    c0_0 += tile[0u + lid];
    c1_0 += tile[32u + lid];
    c2_0 += tile[64u + lid];
    c3_0 += tile[96u + lid];
  }
  workgroupBarrier();
  if (slice >= 1u && slice < 2u) {
    tile[0u + lid - 16u] = c0_0;
    tile[16u + lid - 16u] = c1_0;
    tile[32u + lid - 16u] = c2_0;
    tile[48u + lid - 16u] = c3_0;
  }
  workgroupBarrier();
  if (slice < 1u) {
    c0_0 += tile[0u + lid];
    c1_0 += tile[16u + lid];
    c2_0 += tile[32u + lid];
    c3_0 += tile[48u + lid];
  }
  workgroupBarrier();
  if (slice != 0u) { return; }
  store_c(split, batch, tile_m * 16u + row + 0u, tile_n * 4u + col + 0u, c0_0);
  store_c(split, batch, tile_m * 16u + row + 4u, tile_n * 4u + col + 0u, c1_0);
  store_c(split, batch, tile_m * 16u + row + 8u, tile_n * 4u + col + 0u, c2_0);
  store_c(split, batch, tile_m * 16u + row + 12u, tile_n * 4u + col + 0u, c3_0);
}

// ---- shader 1, step 1: conv2d+add+relu
@group(0) @binding(0) var<storage, read_write> b0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b1: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> b3: array<vec4<f32>>;

fn load_a(z: u32, m: u32, k: u32) -> vec4<f32> {
  var t0 = vec4<f32>(0);
  if ((k * 4u) < 72u && ((k / 6u) + (m / 8u) - 1u) < 8u && (((k / 2u) % 3u) + (m % 8u) - 1u) < 8u) {
    let t1 = b0[((k / 6u) * 16u + ((k / 2u) % 3u) * 2u + m * 2u + (k % 2u) - 18u)];
    t0 = t1;
  }
  return t0;
}
fn load_b(z: u32, k: u32, n: u32) -> vec4<f32> {
  var t0 = vec4<f32>(0);
  if (k < 72u && (n * 4u) < 8u) {
    let t1 = b1[(k * 2u + n)];
    t0 = t1;
  }
  return t0;
}
fn store_c(s: u32, z: u32, m: u32, n: u32, v: vec4<f32>) {
  if ((n * 4u) < 8u) {
    let t0 = b2[n];
    let t1 = v + vec4<f32>(t0);
    let t2 = b0[(m * 2u + n)];
    let t3 = (t1 + t2);
    let t4 = select(t3, vec4<f32>(0), ((bitcast<vec4<u32>>(vec4<f32>(t3)) - vec4<u32>(0x80000001u)) <= vec4<u32>(0x7f7fffffu)));
    b3[(m * 2u + n)] = t4;
  }
}

var<workgroup> tile: array<vec4<f32>, 1024>;

@compute @workgroup_size(256, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let tile_n = group % 1u;
  let tile_m = (group / 1u) % 4u;
  let split = (group / 4u) % 1u;
  let batch = group / 4u;
  let slice = lid / 16u;
  let member = lid % 16u;
  let col = member % 4u;
  let row = member / 4u;
  var c0_0 = vec4<f32>(0.0);
  var c1_0 = vec4<f32>(0.0);
  var c2_0 = vec4<f32>(0.0);
  var c3_0 = vec4<f32>(0.0);
  let k_begin = split * 128u;
  let k_stop = 128u;
  for (var k = k_begin; k < k_stop; k += 128u) {
{
      let i = lid + 0u;
      tile[(i / 32u) * 32u + ((i % 32u) ^ ((i / 32u) & 31u))] = vec4<f32>(load_a(batch, tile_m * 16u + i / 32u, k / 4u + i % 32u));
    }
{
      let i = lid + 256u;
      tile[(i / 32u) * 32u + ((i % 32u) ^ ((i / 32u) & 31u))] = vec4<f32>(load_a(batch, tile_m * 16u + i / 32u, k / 4u + i % 32u));
    }
{
      let i = lid + 0u;
      tile[512u + i] = vec4<f32>(load_b(batch, k + i / 4u, tile_n * 4u + i % 4u));
    }
{
      let i = lid + 256u;
      tile[512u + i] = vec4<f32>(load_b(batch, k + i / 4u, tile_n * 4u + i % 4u));
    }
    workgroupBarrier();
      {
        let a0 = tile[(row + 0u) * 32u + (((slice * 2u + 0u)) ^ ((row + 0u) & 31u))];
        let a1 = tile[(row + 4u) * 32u + (((slice * 2u + 0u)) ^ ((row + 4u) & 31u))];
        let a2 = tile[(row + 8u) * 32u + (((slice * 2u + 0u)) ^ ((row + 8u) & 31u))];
        let a3 = tile[(row + 12u) * 32u + (((slice * 2u + 0u)) ^ ((row + 12u) & 31u))];
        {
          let b0 = tile[512u + ((slice * 2u + 0u) * 4u + 0u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 0u) * 4u + 1u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 0u) * 4u + 2u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 0u) * 4u + 3u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

      {
        let a0 = tile[(row + 0u) * 32u + (((slice * 2u + 1u)) ^ ((row + 0u) & 31u))];
        let a1 = tile[(row + 4u) * 32u + (((slice * 2u + 1u)) ^ ((row + 4u) & 31u))];
        let a2 = tile[(row + 8u) * 32u + (((slice * 2u + 1u)) ^ ((row + 8u) & 31u))];
        let a3 = tile[(row + 12u) * 32u + (((slice * 2u + 1u)) ^ ((row + 12u) & 31u))];
        {
          let b0 = tile[512u + ((slice * 2u + 1u) * 4u + 0u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 1u) * 4u + 1u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 1u) * 4u + 2u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[512u + ((slice * 2u + 1u) * 4u + 3u) * 4u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

    workgroupBarrier();
  }
  if (slice >= 8u) {
    tile[0u + lid - 128u] = c0_0;
    tile[128u + lid - 128u] = c1_0;
    tile[256u + lid - 128u] = c2_0;
    tile[384u + lid - 128u] = c3_0;
  }
  workgroupBarrier();
  if (slice < 8u) {
    c0_0 += tile[0u + lid];
    c1_0 += tile[128u + lid];
    c2_0 += tile[256u + lid];
    c3_0 += tile[384u + lid];
  }
  workgroupBarrier();
  if (slice >= 4u && slice < 8u) {
    tile[0u + lid - 64u] = c0_0;
    tile[64u + lid - 64u] = c1_0;
    tile[128u + lid - 64u] = c2_0;
    tile[192u + lid - 64u] = c3_0;
  }
  workgroupBarrier();
  if (slice < 4u) {
    c0_0 += tile[0u + lid];
    c1_0 += tile[64u + lid];
    c2_0 += tile[128u + lid];
    c3_0 += tile[192u + lid];
  }
  workgroupBarrier();
  if (slice >= 2u && slice < 4u) {
    tile[0u + lid - 32u] = c0_0;
    tile[32u + lid - 32u] = c1_0;
    tile[64u + lid - 32u] = c2_0;
    tile[96u + lid - 32u] = c3_0;
  }
  workgroupBarrier();
  if (slice < 2u) {
    c0_0 += tile[0u + lid];
    c1_0 += tile[32u + lid];
    c2_0 += tile[64u + lid];
    c3_0 += tile[96u + lid];
  }
  workgroupBarrier();
  if (slice >= 1u && slice < 2u) {
    tile[0u + lid - 16u] = c0_0;
    tile[16u + lid - 16u] = c1_0;
    tile[32u + lid - 16u] = c2_0;
    tile[48u + lid - 16u] = c3_0;
  }
  workgroupBarrier();
  if (slice < 1u) {
    c0_0 += tile[0u + lid];
    c1_0 += tile[16u + lid];
    c2_0 += tile[32u + lid];
    c3_0 += tile[48u + lid];
  }
  workgroupBarrier();
  if (slice != 0u) { return; }
  store_c(split, batch, tile_m * 16u + row + 0u, tile_n * 4u + col + 0u, c0_0);
  store_c(split, batch, tile_m * 16u + row + 4u, tile_n * 4u + col + 0u, c1_0);
  store_c(split, batch, tile_m * 16u + row + 8u, tile_n * 4u + col + 0u, c2_0);
  store_c(split, batch, tile_m * 16u + row + 12u, tile_n * 4u + col + 0u, c3_0);
}

// ---- shader 2, step 2: max_pool2d+transpose
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
  let t0 = b0[((i / 8u) * 32u + (k / 2u) * 16u + ((i / 2u) % 4u) * 4u + (k % 2u) * 2u + (i % 2u))];
  return t0;
}
fn store_y(i: u32, v: vec4<f32>) {
  b1[((i % 2u) * 64u + (i / 2u))] = v.x;
  b1[((i % 2u) * 64u + (i / 2u) + 16u)] = v.y;
  b1[((i % 2u) * 64u + (i / 2u) + 32u)] = v.z;
  b1[((i % 2u) * 64u + (i / 2u) + 48u)] = v.w;
}

@compute @workgroup_size(32, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 32u + lid;
  if (i < 32u) {
    var acc = vec4<f32>(-infinity());
    var worst = vec4<u32>(0u);
    for (var k = 0u; k < 4u; k++) {
      let x = vec4<f32>(load_x(i, k));
      acc = max(acc, x);
      worst = max(worst, (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)));
    }
    acc = select(acc, vec4<f32>(nan()), worst > vec4<u32>(0x7f800000u));
    store_y(i, acc);
  }
}
