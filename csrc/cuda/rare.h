// Marks ways through kernels that usual inputs do not take, or one thread of a block alone does, for the test
// that counts the instructions of the others (tests/csrc/test_cuda_budget.py).
#pragma once

#if defined(STN_MARK_RARE) && defined(__CUDA_ARCH__)
#define STN_RARE() asm volatile("pmevent 0;")
#else
#define STN_RARE() static_cast<void>(0)
#endif
