// From detector counts to line integrals, and what stands out of them at every angle. See gpu/normalize.py and
// gpu/stripes.py, which do the same on the CPU and say why. COUNT is the type of a detector count.

struct Correction {
    const COUNT *frame;  // one row of one projection
    const float *dark, *span;
    float minimum;
    int n_columns;

    __device__ float at(int column) const {
        const float signal = (float)frame[column] - dark[column];
        return logf(span[column] / fmaxf(signal, span[column] * minimum));
    }

    __device__ bool finite(int column) const {
        const float value = (float)frame[column];
        return value - value == 0.0f;
    }

    // A sample whose count is no number is interpolated between the nearest ones of its row that are.
    __device__ float mended(int column) const {
        if (finite(column)) return at(column);
        int left = column - 1, right = column + 1;
        while (left >= 0 && !finite(left)) --left;
        while (right < n_columns && !finite(right)) ++right;
        if (left < 0 && right >= n_columns) return 0.0f;
        if (left < 0) return at(right);
        if (right >= n_columns) return at(left);
        const float share = (float)(column - left) / (float)(right - left);
        return at(left) * (1.0f - share) + at(right) * share;
    }
};

// The n_rows rows from first_row on of projections (n_angles, rows_there, n_columns), to sinograms (n_rows, n_angles,
// n_columns).
//
// dark, span, left, right, share (rows_there, n_columns); left, right, share: the good columns between which a bad one is interpolated; left is the column
// itself where it is good, -1 where there is nothing to interpolate from. Or nothing, where all are good.
extern "C" __global__ void line_integrals(const COUNT *__restrict__ projections, const float *__restrict__ dark,
                                          const float *__restrict__ span, const int *__restrict__ left,
                                          const int *__restrict__ right, const float *__restrict__ share,
                                          float *__restrict__ sinograms, int n_angles, int rows_there, int first_row,
                                          int n_columns, float minimum) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int angle = blockIdx.y;
    const int row = blockIdx.z;
    if (column >= n_columns) return;
    const long long line = (long long)(first_row + row) * n_columns;
    const Correction correction = {projections + ((long long)angle * rows_there + first_row + row) * n_columns, dark + line, span + line,
                                   minimum, n_columns};
    float value;
    if (!left || left[line + column] == column) {
        value = correction.mended(column);
    } else if (left[line + column] < 0) {
        value = 0.0f;
    } else {
        const float w = share[line + column];
        value = correction.mended(left[line + column]) * (1.0f - w) + correction.mended(right[line + column]) * w;
    }
    sinograms[((long long)row * n_angles + angle) * n_columns + column] = value;
}

// Mean of every column over each of n_groups groups of successive angles, (n_rows, n_groups, n_columns).
extern "C" __global__ void group_means(const float *__restrict__ sinograms, float *__restrict__ means, int n_angles,
                                       int n_columns, int n_groups) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int group = blockIdx.y;
    const int row = blockIdx.z;
    if (column >= n_columns) return;
    const int first = (long long)group * n_angles / n_groups, end = (long long)(group + 1) * n_angles / n_groups;
    const float *samples = sinograms + ((long long)row * n_angles + first) * n_columns + column;
    float sum = 0.0f;
    for (int angle = first; angle < end; ++angle, samples += n_columns) sum += *samples;
    means[((long long)row * n_groups + group) * n_columns + column] = sum / (float)(end - first);
}

// What each value of a row has over the median of the 2 half + 1 around it; the ends go on. Shape (n_lines, n_columns).
//
// The median is the value that has `half` others before it in ascending order; equal values count by their place.
extern "C" __global__ void over_neighbors(const float *__restrict__ lines, float *__restrict__ over, int n_columns,
                                          int half) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= n_columns) return;
    const float *line = lines + (long long)blockIdx.y * n_columns;
    float median = 0.0f;
    for (int i = -half; i <= half; ++i) {
        const float candidate = line[min(max(column + i, 0), n_columns - 1)];
        int before = 0;
        for (int k = -half; k <= half; ++k) {
            const float other = line[min(max(column + k, 0), n_columns - 1)];
            before += other < candidate || (other == candidate && k < i);
        }
        if (before == half) median = candidate;
    }
    over[(long long)blockIdx.y * n_columns + column] = line[column] - median;
}

// Median of n values (even n: of the middle two the mean), each `step` after the other; | value - from | if absolute.
__device__ inline float median_of(const float *values, int n, long long step, float from, bool absolute) {
    float low = 0.0f, high = 0.0f;
    for (int i = 0; i < n; ++i) {
        const float a = values[i * step] - from, candidate = absolute ? fabsf(a) : a;
        int before = 0;
        for (int k = 0; k < n; ++k) {
            const float b = values[k * step] - from, other = absolute ? fabsf(b) : b;
            before += other < candidate || (other == candidate && k < i);
        }
        if (before == (n - 1) / 2) low = candidate;
        if (before == n / 2) high = candidate;
    }
    return (low + high) / 2.0f;
}

// Median of every column over the groups, and the median distance from it, both (n_rows, n_columns).
extern "C" __global__ void center_and_scatter(const float *__restrict__ over, float *__restrict__ center,
                                              float *__restrict__ scatter, int n_columns, int n_groups) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y;
    if (column >= n_columns) return;
    const float *values = over + (long long)row * n_groups * n_columns + column;
    const float middle = median_of(values, n_groups, n_columns, 0.0f, false);
    center[(long long)row * n_columns + column] = middle;
    scatter[(long long)row * n_columns + column] = median_of(values, n_groups, n_columns, middle, true);
}
