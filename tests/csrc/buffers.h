// What the programs that run CUDA kernels on the host share: tensors, read from a file and written to
// another, and launches.
#pragma once

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

void check(bool done, const char* what) {
  if (done) return;
  std::fprintf(stderr, "%s failed\n", what);
  std::exit(1);
}

// Memory of whose pages only those that are touched exist.
struct Unmap {
  size_t bytes;
  void operator()(unsigned char* data) const { munmap(data, bytes); }
};
using Sparse = std::unique_ptr<unsigned char[], Unmap>;

Sparse sparse(size_t bytes) {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  check(data != MAP_FAILED, "mmap");
  return Sparse(static_cast<unsigned char*>(data), Unmap{bytes});
}

// Elements of `size` bytes, which reading and writing find side by side in the file.
struct Buffer {
  size_t count, size, stretch;
  std::unique_ptr<unsigned char[]> dense;
  Sparse stretched{nullptr, Unmap{0}};

  Buffer(size_t count_, size_t size_, int64_t stretch_ = 1)
      : count(count_),
        size(size_),
        stretch(static_cast<size_t>(stretch_)),
        dense(new unsigned char[count * size]) {
    std::memset(dense.get(), 0xff, count * size);
    if (stretch > 1) stretched = sparse(count * size * stretch);
  }
  void read(FILE* file) {
    check(std::fread(dense.get(), size, count, file) == count, "reading");
    for (size_t k = 0; stretched && k < count; ++k) {
      std::memcpy(stretched.get() + k * stretch * size, dense.get() + k * size, size);
    }
  }
  // The elements as they are now, side by side.
  const unsigned char* elements() {
    for (size_t k = 0; stretched && k < count; ++k) {
      std::memcpy(dense.get() + k * size, stretched.get() + k * stretch * size, size);
    }
    return dense.get();
  }
  void write(FILE* file) { check(std::fwrite(elements(), size, count, file) == count, "writing"); }
  bool same(Buffer& other) { return std::memcmp(elements(), other.elements(), count * size) == 0; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(stretched ? stretched.get() : dense.get());
  }
};

// A launch that succeeds.
void done(cudaError_t error, const char* what) {
  static uint64_t before = 0;
  check(error == cudaSuccess, what);
  std::printf("%s %llu\n", what, static_cast<unsigned long long>(cuda_on_host::steps - before));
  before = cuda_on_host::steps;
}

}  // namespace
