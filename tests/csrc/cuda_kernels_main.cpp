// Runs the CUDA kernels, compiled for the host, over problems from a file, and writes what they give to
// another: cuda_kernels PROBLEMS RESULTS. Tensors are the elements from their first to their last, in their
// own layout, in buffers of exactly that size.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda/kernels.h"

namespace {

// As test_cuda_kernels.py packs it; dtype is an index of its DTYPES.
struct Header {
  int64_t dtype, theta_is_double, padding, align_corners;
  int64_t batches, channels, height, width, out_height, out_width;
  int64_t input[4], output[4];  // strides; of each one's gradient too
};

void check(bool done, const char* what) {
  if (done) return;
  std::fprintf(stderr, "%s failed\n", what);
  std::exit(1);
}

struct Buffer {
  size_t bytes;
  std::unique_ptr<unsigned char[]> data;

  explicit Buffer(size_t size) : bytes(size), data(new unsigned char[size]) {
    std::memset(data.get(), 0xff, size);
  }
  void read(FILE* file) { check(std::fread(data.get(), 1, bytes, file) == bytes, "reading"); }
  void write(FILE* file) const { check(std::fwrite(data.get(), 1, bytes, file) == bytes, "writing"); }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data.get());
  }
};

// Elements from the first to the last.
size_t extent(const Header& h, const int64_t* strides, int64_t height, int64_t width) {
  return static_cast<size_t>(1 + (h.batches - 1) * strides[0] + (h.channels - 1) * strides[1] +
                             (height - 1) * strides[2] + (width - 1) * strides[3]);
}

template <class T>
void run(const Header& h, FILE* problems, FILE* results) {
  const size_t in = sizeof(T) * extent(h, h.input, h.height, h.width);
  const size_t out = sizeof(T) * extent(h, h.output, h.out_height, h.out_width);
  const size_t maps =
      static_cast<size_t>(h.batches * 6) * (h.theta_is_double ? sizeof(double) : sizeof(float));
  Buffer input(in), grad(out), theta(maps), output(out), grad_input(in), grad_theta(maps);
  for (Buffer* b : {&input, &grad, &theta}) b->read(problems);

  stn::Problem<T> p{};
  p.frame = {h.height, h.width, h.out_height, h.out_width, h.align_corners != 0};
  p.batches = h.batches;
  p.channels = h.channels;
  p.stored_height = std::max<int64_t>(h.height, 2);
  p.stored_width = std::max<int64_t>(h.width, 2);
  p.padding = static_cast<stn::Padding>(h.padding);
  p.theta = theta.as<void>();
  p.theta_is_double = h.theta_is_double != 0;
  p.input = {input.as<const T>(), h.input[0], h.input[1], h.input[2], h.input[3]};
  p.grad_input = {grad_input.as<T>(), h.input[0], h.input[1], h.input[2], h.input[3]};
  p.grad = {grad.as<const T>(), h.output[0], h.output[1], h.output[2], h.output[3]};
  p.output = {output.as<T>(), h.output[0], h.output[1], h.output[2], h.output[3]};

  std::unique_ptr<double[]> partial(
      new double[static_cast<size_t>(h.batches * stn::cuda::moment_blocks(p)) * 6]);
  check(stn::cuda::launch_sample(p, nullptr) == cudaSuccess, "sample");
  check(stn::cuda::launch_moments(p, partial.get(), grad_theta.as<void>(), nullptr) == cudaSuccess,
        "moments");
  check(stn::cuda::launch_adjoint(p, nullptr) == cudaSuccess, "adjoint");
  for (const Buffer* b : {&output, &grad_input, &grad_theta}) b->write(results);
}

}  // namespace

int main(int argc, char** argv) {
  check(argc == 3, "expected PROBLEMS RESULTS:");
  FILE *problems = std::fopen(argv[1], "rb"), *results = std::fopen(argv[2], "wb");
  check(problems && results, "opening files");
  Header h;
  while (std::fread(&h, sizeof(h), 1, problems) == 1) {
    switch (h.dtype) {
      case 0:
        run<float>(h, problems, results);
        break;
      case 1:
        run<double>(h, problems, results);
        break;
      case 2:
        run<__half>(h, problems, results);
        break;
      case 3:
        run<__nv_bfloat16>(h, problems, results);
        break;
      default:
        check(false, "dtype");
    }
  }
  check(std::fclose(results) == 0, "writing");
}
