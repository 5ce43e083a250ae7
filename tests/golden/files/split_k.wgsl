// ---- shader 0, step 0: gemm
@group(0) @binding(0) var<storage, read> b0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b1: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> b2: array<vec4<f32>>;

fn load_a(z: u32, m: u32, k: u32) -> vec4<f32> {
  let t0 = b0[(m * 1024u + k)];
  return t0;
}
fn load_b(z: u32, k: u32, n: u32) -> vec4<f32> {
  let t0 = b1[(k * 4u + n)];
  return t0;
}
fn store_c(s: u32, z: u32, m: u32, n: u32, v: vec4<f32>) {
  b2[(s * 64u + m * 4u + n)] = v;
}

var<workgroup> tile: array<vec4<f32>, 1024>;

@compute @workgroup_size(256, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let tile_n = group % 1u;
  let tile_m = (group / 1u) % 1u;
  let split = (group / 1u) % 16u;
  let batch = group / 16u;
  let slice = lid / 16u;
  let member = lid % 16u;
  let col = member % 4u;
  let row = member / 4u;
  var c0_0 = vec4<f32>(0.0);
  var c1_0 = vec4<f32>(0.0);
  var c2_0 = vec4<f32>(0.0);
  var c3_0 = vec4<f32>(0.0);
  let k_begin = split * 256u;
  let k_stop = min(k_begin + 256u, 4096u);
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

// ---- shader 1, step 1: gemm+
@group(0) @binding(0) var<storage, read> b0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> b1: array<vec4<f32>>;

fn load_p(s: u32, i: u32) -> vec4<f32> {
  let t0 = b0[(s * 64u + i)];
  return t0;
}
fn store_c(i: u32, v: vec4<f32>) {
  b1[i] = v;
}

@compute @workgroup_size(64, 1, 1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let group = wid.x;

  let i = group * 64u + lid;
  if (i < 64u) {
    var acc = load_p(0u, i);
    acc += load_p(1u, i);
    acc += load_p(2u, i);
    acc += load_p(3u, i);
    acc += load_p(4u, i);
    acc += load_p(5u, i);
    acc += load_p(6u, i);
    acc += load_p(7u, i);
    acc += load_p(8u, i);
    acc += load_p(9u, i);
    acc += load_p(10u, i);
    acc += load_p(11u, i);
    acc += load_p(12u, i);
    acc += load_p(13u, i);
    acc += load_p(14u, i);
    acc += load_p(15u, i);
    store_c(i, acc);
  }
}
