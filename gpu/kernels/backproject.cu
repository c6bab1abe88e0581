// Direct back-projection with linear interpolation: every pixel of SLICES slices adds up what each angle has for it.
//
// SAMPLE is how a sample of SLICES filtered rows lies in memory: float, or half where its precision suffices.

#ifdef HALF
#include <cuda_fp16.h>
typedef __half SAMPLE;
#else
typedef float SAMPLE;
#endif

struct alignas(sizeof(SAMPLE) * SLICES > 16 ? 16 : sizeof(SAMPLE) * SLICES) Samples {
    SAMPLE of[SLICES];
};

// What an angle is: column = x * cos + y * sin + center, pixels from the middle of the slice.
struct View {
    float cos, sin, center;
};

// rows (n_groups, n_angles, length): filtered, padded rows, SLICES side by side; periodic.
// slices (n_rows, n, n), of which the block of pixels (first_x, first_y) + (n_x, n_y) is written to (n_rows, n_y, n_x).
extern "C" __global__ void backproject(const Samples *__restrict__ rows, const View *__restrict__ views,
                                       float *__restrict__ slices, int n_rows, int n_angles, int length, int n,
                                       int first_x, int first_y, int n_x, int n_y) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    const int group = blockIdx.z;
    if (column >= n_x || row >= n_y) return;
    const float x = first_x + column - 0.5f * (n - 1), y = first_y + row - 0.5f * (n - 1);
    const Samples *line = rows + (long long)group * n_angles * length;
    float sum[SLICES];
    for (int s = 0; s < SLICES; ++s) sum[s] = 0.0f;
    for (int angle = 0; angle < n_angles; ++angle, line += length) {
        const View view = views[angle];
        const float t = fmaf(x, view.cos, fmaf(y, view.sin, view.center));
        const float below = floorf(t);
        const float share = t - below;
        int at = (int)below;
        at = at < 0 ? at + length : at < length ? at : at - length;
        const int next = at + 1 < length ? at + 1 : 0;
        const Samples a = line[at], b = line[next];
        for (int s = 0; s < SLICES; ++s) {
            sum[s] = fmaf(1.0f - share, (float)a.of[s], sum[s]);
            sum[s] = fmaf(share, (float)b.of[s], sum[s]);
        }
    }
    for (int s = 0; s < SLICES; ++s) {
        const long long slice = (long long)group * SLICES + s;
        if (slice < n_rows) slices[(slice * n_y + row) * n_x + column] = sum[s];
    }
}
