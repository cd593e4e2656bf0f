// Two loops, one in the other, beside a rare way that holds a third: what test_cuda_budget.py is to find.
#include "cuda/rare.h"

__global__ void marked(const float* __restrict__ from, float* to, int rows, int columns) {
  int i = 0;
#pragma unroll 1
  do {
    float sum = 0;
    int j = 0;
#pragma unroll 1
    do {
      sum += from[j];
    } while (++j < columns);
    if (sum > 1e30f) {
      STN_RARE();
#pragma unroll 1
      do {
        sum += static_cast<float>(from[-j] * 3.14);
      } while (--j > 0);
    }
    to[i] = sum;
  } while (++i < rows);
}
