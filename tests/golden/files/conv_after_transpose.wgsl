// ---- shader 0, step 0: conv2d+transpose
@group(0) @binding(0) var<storage, read> b0: array<f32>;
@group(0) @binding(1) var<storage, read> b1: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> b3: array<f32>;

fn load_a(z: u32, m: u32, k: u32) -> vec4<f32> {
  var t0 = f32(0);
  if (m < 25u && (k * 4u) < 27u && (((m / 5u) % 5u) * 2u + ((k * 4u) / 9u) - 1u) < 9u && ((m % 5u) * 2u + ((((k * 4u) / 3u)) % 3u) - 1u) < 10u) {
    let t1 = b0[(((m / 5u) % 5u) * 60u + ((k * 4u) / 9u) * 30u + (m % 5u) * 6u + ((((k * 4u) / 3u)) % 3u) * 3u + ((k * 4u) % 3u) - 33u)];
    t0 = t1;
  }
  var t2 = f32(0);
  if (m < 25u && (k * 4u + 1u) < 27u && (((m / 5u) % 5u) * 2u + ((k * 4u + 1u) / 9u) - 1u) < 9u && ((m % 5u) * 2u + ((((k * 4u + 1u) / 3u)) % 3u) - 1u) < 10u) {
    let t3 = b0[(((m / 5u) % 5u) * 60u + ((k * 4u + 1u) / 9u) * 30u + (m % 5u) * 6u + ((((k * 4u + 1u) / 3u)) % 3u) * 3u + ((k * 4u + 1u) % 3u) - 33u)];
    t2 = t3;
  }
  var t4 = f32(0);
  if (m < 25u && (k * 4u + 2u) < 27u && (((m / 5u) % 5u) * 2u + ((k * 4u + 2u) / 9u) - 1u) < 9u && ((m % 5u) * 2u + ((((k * 4u + 2u) / 3u)) % 3u) - 1u) < 10u) {
    let t5 = b0[(((m / 5u) % 5u) * 60u + ((k * 4u + 2u) / 9u) * 30u + (m % 5u) * 6u + ((((k * 4u + 2u) / 3u)) % 3u) * 3u + ((k * 4u + 2u) % 3u) - 33u)];
    t4 = t5;
  }
  var t6 = f32(0);
  if (m < 25u && (k * 4u + 3u) < 27u && (((m / 5u) % 5u) * 2u + ((k * 4u + 3u) / 9u) - 1u) < 9u && ((m % 5u) * 2u + ((((k * 4u) / 3u) + 1u) % 3u) - 1u) < 10u) {
    let t7 = b0[(((m / 5u) % 5u) * 60u + ((k * 4u + 3u) / 9u) * 30u + (m % 5u) * 6u + ((((k * 4u) / 3u) + 1u) % 3u) * 3u + ((k * 4u) % 3u) - 33u)];
    t6 = t7;
  }
  let t8 = vec4<f32>(t0, t2, t4, t6);
  return t8;
}
fn load_b(z: u32, k: u32, n: u32) -> vec4<f32> {
  var t0 = vec4<f32>(0);
  if (k < 27u && (n * 4u) < 16u) {
    let t1 = b1[(k * 4u + n)];
    t0 = t1;
  }
  return t0;
}
fn store_c(s: u32, z: u32, m: u32, n: u32, v: vec4<f32>) {
  if (m < 25u && (n * 4u) < 16u) {
    let t0 = b2[n];
    let t1 = v + vec4<f32>(t0);
    b3[(n * 100u + ((m / 5u) % 5u) * 5u + (m % 5u))] = t1.x;
    b3[(n * 100u + ((m / 5u) % 5u) * 5u + (m % 5u) + 25u)] = t1.y;
    b3[(n * 100u + ((m / 5u) % 5u) * 5u + (m % 5u) + 50u)] = t1.z;
    b3[(n * 100u + ((m / 5u) % 5u) * 5u + (m % 5u) + 75u)] = t1.w;
  }
}

var<workgroup> tile: array<vec4<f32>, 512>;

@compute @workgroup_size(256, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let tile_n = group % 1u;
  let tile_m = (group / 1u) % 1u;
  let split = (group / 1u) % 1u;
  let batch = group / 1u;
  let slice = lid / 64u;
  let member = lid % 64u;
  let col = member % 8u;
  let row = member / 8u;
  var c0_0 = vec4<f32>(0.0);
  var c1_0 = vec4<f32>(0.0);
  var c2_0 = vec4<f32>(0.0);
  var c3_0 = vec4<f32>(0.0);
  let k_begin = split * 32u;
  let k_stop = 32u;
  for (var k = k_begin; k < k_stop; k += 32u) {
{
      let i = lid + 0u;
      tile[(i / 8u) * 8u + ((i % 8u) ^ ((i / 8u) & 7u))] = vec4<f32>(load_a(batch, tile_m * 32u + i / 8u, k / 4u + i % 8u));
    }
{
      let i = lid + 0u;
      tile[256u + i] = vec4<f32>(load_b(batch, k + i / 8u, tile_n * 8u + i % 8u));
    }
    workgroupBarrier();
      {
        let a0 = tile[(row + 0u) * 8u + (((slice * 2u + 0u)) ^ ((row + 0u) & 7u))];
        let a1 = tile[(row + 8u) * 8u + (((slice * 2u + 0u)) ^ ((row + 8u) & 7u))];
        let a2 = tile[(row + 16u) * 8u + (((slice * 2u + 0u)) ^ ((row + 16u) & 7u))];
        let a3 = tile[(row + 24u) * 8u + (((slice * 2u + 0u)) ^ ((row + 24u) & 7u))];
        {
          let b0 = tile[256u + ((slice * 2u + 0u) * 4u + 0u) * 8u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[256u + ((slice * 2u + 0u) * 4u + 1u) * 8u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[256u + ((slice * 2u + 0u) * 4u + 2u) * 8u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[256u + ((slice * 2u + 0u) * 4u + 3u) * 8u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

      {
        let a0 = tile[(row + 0u) * 8u + (((slice * 2u + 1u)) ^ ((row + 0u) & 7u))];
        let a1 = tile[(row + 8u) * 8u + (((slice * 2u + 1u)) ^ ((row + 8u) & 7u))];
        let a2 = tile[(row + 16u) * 8u + (((slice * 2u + 1u)) ^ ((row + 16u) & 7u))];
        let a3 = tile[(row + 24u) * 8u + (((slice * 2u + 1u)) ^ ((row + 24u) & 7u))];
        {
          let b0 = tile[256u + ((slice * 2u + 1u) * 4u + 0u) * 8u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.x), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.x), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.x), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.x), b0, c3_0);
        }
        {
          let b0 = tile[256u + ((slice * 2u + 1u) * 4u + 1u) * 8u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.y), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.y), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.y), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.y), b0, c3_0);
        }
        {
          let b0 = tile[256u + ((slice * 2u + 1u) * 4u + 2u) * 8u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.z), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.z), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.z), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.z), b0, c3_0);
        }
        {
          let b0 = tile[256u + ((slice * 2u + 1u) * 4u + 3u) * 8u + col + 0u];
          c0_0 = fma(vec4<f32>(a0.w), b0, c0_0);
          c1_0 = fma(vec4<f32>(a1.w), b0, c1_0);
          c2_0 = fma(vec4<f32>(a2.w), b0, c2_0);
          c3_0 = fma(vec4<f32>(a3.w), b0, c3_0);
        }
      }

    workgroupBarrier();
  }
  if (slice >= 2u) {
    tile[0u + lid - 128u] = c0_0;
    tile[128u + lid - 128u] = c1_0;
    tile[256u + lid - 128u] = c2_0;
    tile[384u + lid - 128u] = c3_0;
  }
  workgroupBarrier();
  if (slice < 2u) {
    c0_0 += tile[0u + lid];
    c1_0 += tile[128u + lid];
    c2_0 += tile[256u + lid];
    c3_0 += tile[384u + lid];
  }
  workgroupBarrier();
  if (slice >= 1u && slice < 2u) {
    tile[0u + lid - 64u] = c0_0;
    tile[64u + lid - 64u] = c1_0;
    tile[128u + lid - 64u] = c2_0;
    tile[192u + lid - 64u] = c3_0;
  }
  workgroupBarrier();
  if (slice < 1u) {
    c0_0 += tile[0u + lid];
    c1_0 += tile[64u + lid];
    c2_0 += tile[128u + lid];
    c3_0 += tile[192u + lid];
  }
  workgroupBarrier();
  if (slice != 0u) { return; }
  store_c(split, batch, tile_m * 32u + row + 0u, tile_n * 8u + col + 0u, c0_0);
  store_c(split, batch, tile_m * 32u + row + 8u, tile_n * 8u + col + 0u, c1_0);
  store_c(split, batch, tile_m * 32u + row + 16u, tile_n * 8u + col + 0u, c2_0);
  store_c(split, batch, tile_m * 32u + row + 24u, tile_n * 8u + col + 0u, c3_0);
}
