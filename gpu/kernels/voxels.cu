// What is stored of a volume: integers that stand for values. The same as gpu/volume.py's `encode`, byte for byte.

// clipped: how many values lie outside offset .. maximum, or are no numbers, so that they hold the nearer end, or 0.
extern "C" __global__ void encode(const float *__restrict__ values, unsigned short *__restrict__ stored,
                                  unsigned int *__restrict__ clipped, double offset, double scale, double maximum,
                                  unsigned int n) {
    const unsigned int stride = gridDim.x * blockDim.x;
    unsigned int outside = 0;
    for (unsigned int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        const double value = values[i];
        if (!(value >= offset && value <= maximum)) ++outside;
        const double step = rint((value - offset) / scale);
        stored[i] = step > 0.0 ? (unsigned short)(step < 65535.0 ? step : 65535.0) : 0;
    }
    if (outside) atomicAdd(clipped, outside);
}
