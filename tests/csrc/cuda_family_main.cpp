// Runs the CUDA kernels, compiled for the host, over problems from a file, and writes what they give to
// another: cuda_family PROBLEMS RESULTS. It prints each launch's name and its steps, which are 0 where they
// are not counted. Tensors are the elements from their first to their last, in their own layout, in buffers
// of exactly that size; stretched, images lie that many times as far apart.
#include <vector>

#include "buffers.h"
#include "cuda/grad_input.h"
#include "cuda/launches.h"

namespace {

using namespace stn::cuda;

// As test_cuda_family.py packs it. Lengths and strides of axes are x, y, z; strides count elements.
struct Header {
  int64_t kind, storage, element, coefficients, nearest, align_corners, padding, stretch;
  int64_t maps, images, channels, basis, nan_bits, has_points, has_tangent, has_index, has_fill,
      differentiable;
  int64_t in[3], out[3];
  int64_t input[5], output[5];  // strides of batch, channel and axes; of each one's gradient too
};

// Elements from the first to the last.
size_t extent(int64_t batch, int64_t channels, const int64_t* lengths, const int64_t* strides) {
  int64_t last = (batch - 1) * strides[0] + (channels - 1) * strides[1];
  for (int d = 0; d < 3; ++d) last += (lengths[d] - 1) * strides[2 + d];
  return static_cast<size_t>(last + 1);
}

Batch batch(Buffer& buffer, const int64_t* strides, const Header& h) {
  const int64_t unit = h.element * h.stretch;
  return {buffer.as<char>(),
          strides[0] * unit,
          strides[1] * unit,
          {strides[2] * unit, strides[3] * unit, strides[4] * unit}};
}

size_t size_of(int64_t storage) {
  constexpr size_t sizes[] = {4, 8, 2, 2, 1, 2, 2};
  return sizes[storage];
}

void run(const Header& h, FILE* problems, FILE* results) {
  const size_t in = extent(h.images, h.channels, h.in, h.input),
               out = extent(h.maps, h.channels, h.out, h.output);
  const auto kind = static_cast<MapKind>(h.kind);
  const auto entries = static_cast<size_t>(h.maps * streams_of(kind) * h.basis);
  const size_t element = static_cast<size_t>(h.element), number = size_of(h.coefficients);
  const bool is_double = h.element == 8;
  Buffer input(in, element, h.stretch), grad(out, element, h.stretch), theta(entries, number);
  Buffer points(static_cast<size_t>(h.has_points ? 2 * (h.basis - 3) : 0), number);
  Buffer tangent(h.has_tangent ? entries : 0, number);
  Buffer index(static_cast<size_t>(h.has_index ? h.maps : 0), sizeof(int64_t));
  Buffer fill(static_cast<size_t>(h.has_fill ? h.channels : 0), h.nearest ? element : is_double ? 8 : 4);
  for (Buffer* b : {&input, &grad, &theta, &points, &tangent, &index, &fill}) b->read(problems);

  Problem p{};
  p.kind = kind;
  p.storage = static_cast<Storage>(h.storage);
  p.padding = static_cast<stn::Padding>(h.padding);
  p.nearest = h.nearest != 0;
  p.align_corners = h.align_corners != 0;
  for (int d = 0; d < stn::kMaxAxes; ++d) p.axis[d] = axis_of(h.in[d], h.out[d], p.padding, p.align_corners);
  p.maps = h.maps;
  p.images = h.images;
  p.channels = static_cast<int>(h.channels);
  p.basis = static_cast<int>(h.basis);
  const auto coefficients = static_cast<Storage>(h.coefficients);
  p.theta = {theta.as<void>(), coefficients};
  if (h.has_tangent) p.tangent = {tangent.as<void>(), coefficients};
  if (h.has_points) p.points = {points.as<void>(), coefficients};
  if (h.has_index) p.index = index.as<int64_t>();
  if (h.has_fill) p.fill = fill.as<void>();
  p.fill_step = 1;
  p.element = static_cast<int>(h.element);
  p.nan_bits = h.nan_bits;
  p.input = batch(input, h.input, h);
  p.grad = batch(grad, h.output, h);
  Buffer output(out, element, h.stretch);
  p.output = batch(output, h.output, h);
  p.narrow = is_narrow(p.input) && is_narrow(p.output);

  done(launch_sample(p, nullptr), "sample");
  output.write(results);
  if (!h.differentiable) return;

  Buffer grad_input(in, element, h.stretch);
  p.grad_input = batch(grad_input, h.input, h);
  Buffer scratch(static_cast<size_t>(grad_input_scratch(p)), 1);
  done(launch_grad_input(p, scratch.as<void>(), nullptr), "grad_input");
  grad_input.write(results);
  if (h.nearest) return;

  const size_t maps = static_cast<size_t>(h.maps), blocks = static_cast<size_t>(partial_blocks(p));
  const auto map_entries = static_cast<int>(streams_of(kind) * h.basis);
  Buffer sums(maps * blocks * static_cast<size_t>(map_entries), sizeof(double));
  Buffer grad_theta(entries, number);
  const Partial partial{sums.as<double>(),     h.maps,      partial_blocks(p), map_entries,
                        grad_theta.as<void>(), coefficients};
  done(launch_grad_theta(p, partial, nullptr), "grad_theta");
  grad_theta.write(results);
}

// More blocks than a launch takes is an error, before anything is read.
void check_too_many_blocks() {
  Problem p{};
  for (Axis& axis : p.axis) axis = axis_of(1, 1, stn::Padding::zeros, false);
  p.maps = int64_t{1} << 31;
  p.channels = 1;
  p.images = p.maps;
  check(launch_sample(p, nullptr) == cudaErrorInvalidConfiguration, "refusing too many blocks");
  check(launch_grad_input(p, nullptr, nullptr) == cudaErrorInvalidConfiguration, "refusing too many blocks");
}

}  // namespace

int main(int argc, char** argv) {
  check(argc == 3, "expected PROBLEMS RESULTS:");
  check_too_many_blocks();
  FILE *problems = std::fopen(argv[1], "rb"), *results = std::fopen(argv[2], "wb");
  check(problems && results, "opening files");
  Header h;
  while (std::fread(&h, sizeof(h), 1, problems) == 1) run(h, problems, results);
  check(std::fclose(results) == 0, "writing");
}
