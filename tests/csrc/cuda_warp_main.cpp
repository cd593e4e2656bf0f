// Runs the general CUDA kernels, compiled for the host, over problems from a file, and writes what they give
// to another: cuda_warp PROBLEMS RESULTS. It prints each launch's name and its steps, which are 0 where they
// are not counted.
#include <vector>

#include "buffers.h"
#include "cuda/kernels.h"

namespace {

// As test_cuda_warps.py packs it. Lengths and strides of axes are x, y, z.
struct Header {
  int64_t is_double, dims, perspective, nearest, align_corners, padding;
  int64_t maps, images, channels, basis, has_points, has_tangent, has_index;
  int64_t in[3], out[3];
  int64_t input[5], output[5];  // strides of batch, channel and axes; of each one's gradient too
};

// Elements from the first to the last.
size_t extent(int64_t batch, int64_t channels, const int64_t* lengths, const int64_t* strides) {
  int64_t last = (batch - 1) * strides[0] + (channels - 1) * strides[1];
  for (int d = 0; d < 3; ++d) last += (lengths[d] - 1) * strides[2 + d];
  return static_cast<size_t>(last + 1);
}

template <class T>
stn::Volumes<T> volumes(Buffer& buffer, const int64_t* strides) {
  return {buffer.as<T>(), strides[0], strides[1], {strides[2], strides[3], strides[4]}};
}

template <class T>
void run(const Header& h, FILE* problems, FILE* results) {
  const size_t in = extent(h.images, h.channels, h.in, h.input),
               out = extent(h.maps, h.channels, h.out, h.output);
  const auto entries = static_cast<size_t>(h.maps * (h.dims + h.perspective) * h.basis);
  Buffer input(in, sizeof(T)), grad(out, sizeof(T)), theta(entries, sizeof(double));
  Buffer points(static_cast<size_t>(h.has_points ? 2 * (h.basis - 3) : 0), sizeof(double));
  Buffer tangent(h.has_tangent ? entries : 0, sizeof(double));
  Buffer index(static_cast<size_t>(h.has_index ? h.maps : 0), sizeof(int64_t));
  for (Buffer* b : {&input, &grad, &theta, &points, &tangent, &index}) b->read(problems);

  stn::Warp<T> w{};
  w.dims = static_cast<int>(h.dims);
  w.perspective = h.perspective != 0;
  w.nearest = h.nearest != 0;
  w.align_corners = h.align_corners != 0;
  w.padding = static_cast<stn::Padding>(h.padding);
  for (int d = 0; d < stn::kMaxAxes; ++d) {
    w.in[d] = h.in[d];
    w.out[d] = h.out[d];
    w.stored[d] = d < h.dims && h.in[d] < 2 ? 2 : h.in[d];
  }
  w.maps = h.maps;
  w.images = h.images;
  w.channels = h.channels;
  w.basis = h.basis;
  w.theta = theta.as<double>();
  w.tangent = h.has_tangent ? tangent.as<double>() : nullptr;
  w.points = h.has_points ? points.as<double>() : nullptr;
  w.index = h.has_index ? index.as<int64_t>() : nullptr;
  w.input = volumes<const T>(input, h.input);
  w.grad = volumes<const T>(grad, h.output);

  Buffer output(out, sizeof(T)), grad_input(in, sizeof(T)), grad_theta(entries, sizeof(double));
  w.output = volumes<T>(output, h.output);
  w.grad_input = volumes<T>(grad_input, h.input);
  Buffer partial(entries * static_cast<size_t>(stn::cuda::warp_moment_blocks(w)), sizeof(double));
  Buffer boxes(static_cast<size_t>(h.maps * stn::Bundles(w).count), sizeof(stn::WarpBox));
  done(stn::cuda::launch_warp_sample(w, nullptr), "sample");
  done(stn::cuda::launch_warp_moments(w, partial.as<double>(), grad_theta.as<double>(), nullptr), "moments");
  done(stn::cuda::launch_warp_adjoint(w, boxes.as<stn::WarpBox>(), nullptr), "adjoint");
  for (Buffer* b : {&output, &grad_input, &grad_theta}) b->write(results);
}

}  // namespace

int main(int argc, char** argv) {
  check(argc == 3, "expected PROBLEMS RESULTS:");
  FILE *problems = std::fopen(argv[1], "rb"), *results = std::fopen(argv[2], "wb");
  check(problems && results, "opening files");
  Header h;
  while (std::fread(&h, sizeof(h), 1, problems) == 1) {
    h.is_double ? run<double>(h, problems, results) : run<float>(h, problems, results);
  }
  check(std::fclose(results) == 0, "writing");
}
