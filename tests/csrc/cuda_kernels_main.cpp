// Runs the CUDA kernels, compiled for the host, over problems from a file, and writes what they give to
// another: cuda_kernels PROBLEMS RESULTS. It prints each launch's name and its steps, which are 0
// where they are not counted. Tensors are the elements from their first to their last, in their
// own layout, in buffers of exactly that size; stretched, they lie that many times as far apart.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "buffers.h"
#include "cuda/kernels.h"

namespace {

// As test_cuda_kernels.py packs it; dtype is an index of its DTYPES.
struct Header {
  int64_t dtype, theta_is_double, padding, align_corners;
  int64_t batches, channels, height, width, out_height, out_width;
  int64_t input[4], output[4];  // strides; of each one's gradient too
  int64_t stretch;
  int64_t shared;  // the last image is read by all maps, by an index; gradients of images are left out
};

// Elements from the first to the last.
size_t extent(const Header& h, const int64_t* strides, int64_t height, int64_t width) {
  return static_cast<size_t>(1 + (h.batches - 1) * strides[0] + (h.channels - 1) * strides[1] +
                             (height - 1) * strides[2] + (width - 1) * strides[3]);
}

template <class T>
stn::Images<T> images(Buffer& buffer, const int64_t* strides, int64_t stretch) {
  return {buffer.as<T>(), strides[0] * stretch, strides[1] * stretch, strides[2] * stretch,
          strides[3] * stretch};
}

template <class T>
void run(const Header& h, FILE* problems, FILE* results) {
  const size_t in = extent(h, h.input, h.height, h.width),
               out = extent(h, h.output, h.out_height, h.out_width);
  const size_t maps = static_cast<size_t>(h.batches * 6);
  const size_t map_size = h.theta_is_double ? sizeof(double) : sizeof(float);
  Buffer input(in, sizeof(T), h.stretch), grad(out, sizeof(T), h.stretch), theta(maps, map_size);
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
  p.input = images<const T>(input, h.input, h.stretch);
  p.grad = images<const T>(grad, h.output, h.stretch);

  const std::vector<int64_t> last(static_cast<size_t>(h.batches), h.batches - 1);
  if (h.shared) p.index = last.data();

  Buffer output(out, sizeof(T), h.stretch);
  p.output = images<T>(output, h.output, h.stretch);
  done(stn::cuda::launch_sample(p, nullptr), "sample");

  const auto partial_values = static_cast<size_t>(h.batches * stn::cuda::moment_blocks(p) * stn::kMoments);
  Buffer grad_input(in, sizeof(T), h.stretch), grad_theta(maps, map_size);
  Buffer partial(partial_values, sizeof(double));
  p.grad_input = images<T>(grad_input, h.input, h.stretch);
  if (h.shared) {
    done(stn::cuda::launch_moments(p, partial.as<double>(), grad_theta.as<void>(), nullptr), "moments");
    for (Buffer* b : {&output, &grad_input, &grad_theta}) b->write(results);
    return;
  }
  done(stn::cuda::launch_backward(p, partial.as<double>(), grad_theta.as<void>(), nullptr), "backward");

  // Each gradient alone has the same bits.
  Buffer input_alone(in, sizeof(T), h.stretch), theta_alone(maps, map_size);
  Buffer partial_alone(partial_values, sizeof(double));
  p.grad_input = images<T>(input_alone, h.input, h.stretch);
  done(stn::cuda::launch_moments(p, partial_alone.as<double>(), theta_alone.as<void>(), nullptr), "moments");
  done(stn::cuda::launch_adjoint(p, nullptr), "adjoint");
  check(grad_input.same(input_alone) && grad_theta.same(theta_alone), "the gradients alone");
  for (Buffer* b : {&output, &grad_input, &grad_theta}) b->write(results);
}

// More blocks than a launch takes is an error, before anything is read.
void check_too_many_blocks() {
  stn::Problem<float> p{};
  p.frame = {1, 1, 1, 1, false};
  p.batches = int64_t{1} << 31;
  p.channels = 1;
  check(stn::cuda::launch_sample(p, nullptr) == cudaErrorInvalidConfiguration, "refusing too many blocks");
  check(stn::cuda::launch_adjoint(p, nullptr) == cudaErrorInvalidConfiguration, "refusing too many blocks");
}

}  // namespace

int main(int argc, char** argv) {
  check(argc == 3, "expected PROBLEMS RESULTS:");
  check_too_many_blocks();
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
        run<stn::cuda::Half>(h, problems, results);
        break;
      case 3:
        run<stn::cuda::BFloat16>(h, problems, results);
        break;
      default:
        check(false, "dtype");
    }
  }
  check(std::fclose(results) == 0, "writing");
}
