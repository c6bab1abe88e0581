// Filtered back-projection by a non-uniform FFT: what is between the FFTs.
//
//     sinograms -> pack -> FFT of the rows -> filter_rows -> gather -> FFT of the grid -> crop -> slices
//
// Two slices go through as real and imaginary part: a pair. SLICES is the number of pairs that one thread of
// `gather` works on, with their samples side by side in memory.
//
// The spreading onto the Cartesian grid is turned round: every grid point gathers the samples within the kernel's
// reach. On a polar grid those are found by arithmetic, so that there is nothing to sort, there are no atomics, and the
// same input gives the same bytes. The kernel is the exponential of semicircle (Barnett, Magland, af Klinteberg, SIAM
// J. Sci. Comput. 41, C479, 2019, doi:10.1137/18M120885X).

struct alignas(SLICES > 1 ? 16 : 8) Pairs {
    float2 of[SLICES];
};

// Rows of two sinograms as one complex row, padded: value at the right edge up to `seam`, at the left edge after it.
// offsets: what is taken off each column beforehand (n_rows, n_columns), or nothing.
extern "C" __global__ void pack(const float *__restrict__ sinograms, const float *__restrict__ offsets,
                                float2 *__restrict__ packed, int n_rows, int n_angles, int n_columns, int length,
                                int seam, int edge) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int angle = blockIdx.y;
    const int pair = blockIdx.z;
    if (column >= length) return;
    const bool inside = column < n_columns;
    const int from = inside ? column : (column < seam ? n_columns - 1 : 0);
    float2 value = make_float2(0.0f, 0.0f);
    if (inside || edge) {
        const long long row = 2 * pair;
        value.x = sinograms[(row * n_angles + angle) * n_columns + from];
        if (offsets) value.x -= offsets[row * n_columns + from];
        if (row + 1 < n_rows) {
            value.y = sinograms[((row + 1) * n_angles + angle) * n_columns + from];
            if (offsets) value.y -= offsets[(row + 1) * n_columns + from];
        }
    }
    packed[((long long)pair * n_angles + angle) * length + column] = value;
}

// Filter the spectra of all rows and lay them out for `gather`: directions in ascending order, frequencies from
// -length / 2 up, SLICES pairs side by side. direction[j] is the projection that is j-th, -1 - direction[j] where it was
// measured from the other side, so that its frequencies run backwards.
extern "C" __global__ void filter_rows(const float2 *__restrict__ packed, const float2 *__restrict__ response,
                                       const int *__restrict__ direction, Pairs *__restrict__ polar, int n_pairs,
                                       int n_angles, int length) {
    const int sample = blockIdx.x * blockDim.x + threadIdx.x;
    const int j = blockIdx.y;
    if (sample >= length) return;
    const bool reversed = direction[j] < 0;
    const int angle = reversed ? -1 - direction[j] : direction[j];
    const int frequency = sample - length / 2;
    const int own = reversed ? -frequency : frequency;
    const int at = own < 0 ? own + length : own;
    const float2 h = response[(long long)angle * length + at];
    Pairs out;
    for (int s = 0; s < SLICES; ++s) {
        float2 p = make_float2(0.0f, 0.0f);
        if (s < n_pairs && at < length) p = packed[((long long)s * n_angles + angle) * length + at];
        out.of[s] = make_float2(p.x * h.x - p.y * h.y, p.x * h.y + p.y * h.x);
    }
    polar[(long long)j * length + sample] = out;
}

// What a direction is to `gather`.
struct Ray {
    float x, y;          // grid steps per frequency along x and y
    float per_x, per_y;  // frequencies per grid step along x and y; large where the ray stands still
};

// Sum over the samples within reach of one point of the plane, given in grid steps; of the rays that pass there only the
// part-th of n_parts.
__device__ inline void gather_at(float x, float y, const Pairs *__restrict__ polar, const Ray *__restrict__ rays,
                                 const int *__restrict__ first_in_bin, int n_bins, int n_angles, int length,
                                 float radius, float reach, float beta, int part, int n_parts, float2 *sum) {
    const float corner = reach * 1.41422f;
    const float r = sqrtf(x * x + y * y);
    if (r > radius + corner) return;
    int from = 0, to = n_angles;
    if (r > corner) {
        // A ray that passes within reach is less than asin(corner / r) off in direction; directions count modulo pi.
        const float half = asinf(corner / r), phi = atan2f(y, x), bins = n_bins * 0.318309886f;
        const int low = (int)floorf((phi - half) * bins) - 1 + 2 * n_bins, high = (int)floorf((phi + half) * bins) + 2 + 2 * n_bins;
        from = first_in_bin[low % n_bins] + (low / n_bins) * n_angles;
        to = first_in_bin[high % n_bins] + (high / n_bins) * n_angles;
        to = min(to, from + n_angles);
    }
    const int rays_here = to - from;
    to = from + (int)((long long)rays_here * (part + 1) / n_parts);
    from += (int)((long long)rays_here * part / n_parts);
    const float scale = 1.0f / (reach * reach);
    for (int turn = from; turn < to; ++turn) {
        const int j = turn % n_angles;
        const Ray ray = rays[j];
        const float x0 = (x - reach) * ray.per_x, x1 = (x + reach) * ray.per_x;
        const float y0 = (y - reach) * ray.per_y, y1 = (y + reach) * ray.per_y;
        const float begin = fmaxf(fmaxf(fminf(x0, x1), fminf(y0, y1)), (float)(-(length / 2)));
        const float end = fminf(fminf(fmaxf(x0, x1), fmaxf(y0, y1)), (float)((length - 1) / 2));
        if (begin > end) continue;
        const Pairs *samples = polar + (long long)j * length + length / 2;
        for (int k = (int)ceilf(begin); k <= (int)floorf(end); ++k) {
            const float dx = fmaf((float)k, ray.x, -x), dy = fmaf((float)k, ray.y, -y);
            const float u = fmaxf(1.0f - dx * dx * scale, 0.0f), v = fmaxf(1.0f - dy * dy * scale, 0.0f);
            const float weight = expf(beta * (sqrtf(u) + sqrtf(v) - 2.0f));
            const Pairs sample = samples[k];
            for (int s = 0; s < SLICES; ++s) {
                sum[s].x = fmaf(weight, sample.of[s].x, sum[s].x);
                sum[s].y = fmaf(weight, sample.of[s].y, sum[s].y);
            }
        }
    }
}

// The grid of every pair, (n_pairs, size, size), frequencies in the order of an FFT; all but the square of 2 core x 2 core
// points about zero.
//
// reach: half the kernel's width, grid steps. The frequencies fill the whole grid, which is periodic: near its border
// what lies beyond the opposite border is gathered as well.
extern "C" __global__ void gather(const Pairs *__restrict__ polar, const Ray *__restrict__ rays,
                                  const int *__restrict__ first_in_bin, float2 *__restrict__ grid, int n_pairs,
                                  int n_bins, int n_angles, int length, int size, int core, float reach, float beta) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= size || row >= size) return;
    if ((column < core || column >= size - core) && (row < core || row >= size - core)) return;
    const int half = size / 2;
    const float x = (float)(column < half ? column : column - size);
    const float y = (float)(row < half ? row : row - size);
    float2 sum[SLICES];
    for (int s = 0; s < SLICES; ++s) sum[s] = make_float2(0.0f, 0.0f);
    const float inner = half - reach;
    const int more_x = fabsf(x) >= inner, more_y = fabsf(y) >= inner;
    for (int iy = 0; iy <= more_y; ++iy)
        for (int ix = 0; ix <= more_x; ++ix)
            gather_at(x - ix * copysignf((float)size, x), y - iy * copysignf((float)size, y), polar, rays,
                      first_in_bin, n_bins, n_angles, length, (float)half, reach, beta, 0, 1, sum);
    for (int s = 0; s < SLICES; ++s)
        if (s < n_pairs) grid[((long long)s * size + row) * size + column] = sum[s];
}

// The square that `gather` leaves out: there all rays pass, and one thread for each point would be busy long after all
// others. parts (n_parts, 2 core, 2 core): sums over a part of the rays each.
extern "C" __global__ void gather_core(const Pairs *__restrict__ polar, const Ray *__restrict__ rays,
                                       const int *__restrict__ first_in_bin, Pairs *__restrict__ parts, int n_bins,
                                       int n_angles, int length, int size, int core, int n_parts, float reach,
                                       float beta) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    const int part = blockIdx.z;
    if (column >= 2 * core || row >= 2 * core) return;
    float2 sum[SLICES];
    for (int s = 0; s < SLICES; ++s) sum[s] = make_float2(0.0f, 0.0f);
    gather_at((float)(column - core), (float)(row - core), polar, rays, first_in_bin, n_bins, n_angles, length,
              (float)(size / 2), reach, beta, part, n_parts, sum);
    Pairs out;
    for (int s = 0; s < SLICES; ++s) out.of[s] = sum[s];
    parts[((long long)part * 2 * core + row) * 2 * core + column] = out;
}

// The parts of `gather_core` to the grids, one after the other.
extern "C" __global__ void add_core(const Pairs *__restrict__ parts, float2 *__restrict__ grid, int n_pairs, int size,
                                    int core, int n_parts) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= 2 * core || row >= 2 * core) return;
    const long long x = column < core ? column - core + size : column - core;
    const long long y = row < core ? row - core + size : row - core;
    for (int s = 0; s < n_pairs; ++s) {
        float2 sum = make_float2(0.0f, 0.0f);
        for (int part = 0; part < n_parts; ++part) {
            const float2 more = parts[((long long)part * 2 * core + row) * 2 * core + column].of[s];
            sum.x += more.x;
            sum.y += more.y;
        }
        grid[(s * (long long)size + y) * size + x] = sum;
    }
}

// The image in the middle of the transformed grid, its kernel's shape taken out, as two slices.
extern "C" __global__ void crop(const float2 *__restrict__ grid, const float *__restrict__ correction,
                                float *__restrict__ slices, int n_rows, int n, int size) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y;
    const int pair = blockIdx.z;
    if (column >= n) return;
    const int x = column - n / 2, y = row - n / 2;
    const long long at = ((long long)pair * size + (y < 0 ? y + size : y)) * size + (x < 0 ? x + size : x);
    const float2 value = grid[at];
    const float factor = correction[column] * correction[row];
    const long long out = ((long long)(2 * pair) * n + row) * n + column;
    slices[out] = value.x * factor;
    if (2 * pair + 1 < n_rows) slices[out + (long long)n * n] = value.y * factor;
}
