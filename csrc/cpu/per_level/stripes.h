// The gradients over a stripe of an image: where its sums are kept, and which tiles of the output fall on it.
// Included by level sources only; see problem.h.
#pragma once

#include "tiles.h"

namespace stn::cpu {
namespace STN_LEVEL {

// Source rows, or slices, under coordinates whose whole numbers are `whole`, and the next ones.
STN_INLINE Range source_rows(const Problem& p, const Range& whole) {
  const int64_t last = p.in[p.dims - 1] - 1;
  int64_t low = whole.low, high = whole.high + 1;
  if (repeats(p.padding) && (low < 0 || high > last)) return {0, last};
  if (p.padding == Padding::border) {
    low = low < 0 ? 0 : low < last ? low : last;
    high = high < 0 ? 0 : high < last ? high : last;
  }
  return {low < 0 ? 0 : low, high < last ? high : last};
}

// The slices that a tile of a volume touches.
STN_INLINE Range slices_of(const Problem& p, int64_t map, const OutTile& t) {
  const MapLines m = map_lines(p, map);
  const int64_t height = p.out[1], first = t.top / height, last = (t.top + t.rows - 1) / height;
  const int64_t y = first == last ? t.top % height : 0, below = first == last ? y + t.rows : height;
  double low = m.value.one[2], high = low;
  const auto add = [&](double slope, int64_t begin, int64_t end, int axis) STN_LAMBDA {
    const double a = slope * (static_cast<double>(begin) - m.value.center[axis]),
                 b = slope * (static_cast<double>(end - 1) - m.value.center[axis]);
    low += a < b ? a : b;
    high += a < b ? b : a;
  };
  add(m.value.x[2], t.left, t.left + t.columns, 0);
  add(m.value.y[2], y, below, 1);
  add(m.value.z[2], first, last + 1, 2);
  low = low * m.scale[2] + m.center[2];
  high = high * m.scale[2] + m.center[2];
  const bool tame = low >= -kExactCoordinate && high <= kExactCoordinate;  // and both numbers
  return tame ? source_rows(p, whole_range(low, high, p.in[2], p.padding)) : Range{0, p.in[2] - 1};
}

// Source rows, or slices, that a tile's pixels touch; empty where they touch none.
template <class T>
void ranges(const Problem& p, int64_t map, void*, T* values, Range* ranges) {
  const Tiles tiles(p, tile_pixels<T>(p));
  for (int64_t k = 0; k < tiles.count(); ++k) {
    ranges[k] = Range{0, p.in[p.dims - 1] - 1};
    if (p.tangent) continue;
    if (p.dims == 3) {
      ranges[k] = slices_of(p, map, tiles.at(k));
      continue;
    }
    TileRadial<T> radial(p, tiles.at(k), values);
    with_map<T>(p, map, radial.tile(), &radial, [&](auto& m) STN_LAMBDA {
      if (m.tame()) ranges[k] = source_rows(p, m.range(1));
    });
  }
}

// Where a stripe is computed: where it is stored, or apart, and then stored.
template <class T>
struct StripeSums {
  Accumulator<T> to;
  bool apart;

  STN_INLINE StripeSums(const Problem& p, const Stripe& st, int64_t image, T* memory)
      : to{&p,       nullptr, st.channel_end - st.channel_begin, p.grad_input.channel, {}, st.begin, st.end,
           st.begin, st.begin} {
    const Batch& g = p.grad_input;
    const int64_t channels = to.channels;
    const bool vectors = has_vectors(p);
    apart = is_apart(p);
    for (int d = 0; d < kMaxAxes; ++d) to.axis[d] = g.axis[d];
    if (!apart) {
      to.data = reinterpret_cast<T*>(g.data) + image * g.batch + st.channel_begin * g.channel;
    } else {
      const int64_t height = p.dims == 3 ? p.in[1] : st.end - st.begin,
                    depth = p.dims == 3 ? st.end - st.begin : 1, pixel = vectors ? channels : 1;
      to.axis[0] = pixel;
      to.axis[1] = p.in[0] * pixel;
      to.axis[2] = p.in[0] * height * pixel;
      to.channel = vectors ? 1 : p.in[0] * height * depth;
      to.data = memory + (image - st.image_begin) * stripe_values(p, st) - st.begin * to.axis[p.dims - 1];
    }
  }

  __attribute__((noinline)) void store_all(const Problem& p, const Rows<T>& as, const Stripe& st,
                                           int64_t image) const {
    const Batch& g = p.grad_input;
    const int64_t channels = st.channel_end - st.channel_begin;
    to.for_rows(st.begin, st.end, [&](T* row, int64_t y, int64_t z) STN_LAMBDA {
      char* out = g.data + (image * g.batch + st.channel_begin * g.channel + y * g.axis[1] +
                            (p.dims == 3 ? z * g.axis[2] : 0)) *
                               as.size;
      if (to.axis[0] > 1) {  // vectors of channels
        for (int64_t x = 0; x < p.in[0]; ++x) {
          as.store(row + x * to.axis[0], 0, 1, 1, channels, out + x * g.axis[0] * as.size);
        }
      } else if (is_interleaved(g)) {
        as.store(row, to.channel, channels, g.axis[0], p.in[0], out);
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          as.store(row + c * to.channel, 0, 1, g.axis[0], p.in[0], out + c * g.channel * as.size);
        }
      }
    });
  }
};

template <class T>
STN_INLINE void collect_whole(const Problem& p, const Accumulator<T>& to, Workspace<T>* s) {
  Window whole;
  find_whole(p, &whole);
  if (!to.is_covered(whole)) to.prepare();
  collect_group(whole, to.channels, to, s->cells);
  to.hold_all();
  s->spread = false;
}

// All tiles that fall on a stripe, in order. Theta's gradient of a tile belongs to the first stripe that it
// falls on.
template <class T>
void backward(const Problem& p, const Stripe& st, void* workspace, T* values, T* memory) {
  const Rows<T> as = rows_of(p.storage, static_cast<T*>(nullptr));
  auto* s = static_cast<Workspace<T>*>(workspace);
  s->held = nullptr;
  const Tiles tiles(p, tile_pixels<T>(p));
  const bool single = st.image_end - st.image_begin == 1;
  StripeSums<T> sums(p, st, st.image_begin, memory);
  const bool lazy = single && p.padding == Padding::zeros;
  for (int64_t image = st.image_begin; st.grad_input && !lazy && image < st.image_end; ++image) {
    StripeSums<T>(p, st, image, memory).to.prepare();
  }
  if (!lazy) sums.to.hold_all();
  for (int64_t k = 0; k < tiles.count(); ++k) {
    TileRadial<T> radial;
    bool ready = false;
    for (int64_t image = st.image_begin; image < st.image_end; ++image) {
      if (!single) {
        sums = StripeSums<T>(p, st, image, memory);
        sums.to.hold_all();
      }
      for (const int64_t* n = st.readers[image].begin; n < st.readers[image].end; ++n) {
        const Range touched = st.ranges ? st.ranges[*n * tiles.count() + k] : Range{st.begin, st.end - 1};
        if (touched.high < st.begin || touched.low >= st.end) continue;
        double* gradient =
            st.gradients && touched.low >= st.begin ? st.gradients + *n * p.streams() * p.basis : nullptr;
        if (!ready) radial = TileRadial<T>(p, tiles.at(k), values);
        ready = true;
        backward_tile<T>(p, as, st.channel_begin, st.channel_end, *n, &radial, s, gradient,
                         st.grad_input ? &sums.to : nullptr);
      }
      // A whole window is collected once all of the image's tiles are in, unless the next tile is another's.
      if (s->spread && (!single || k + 1 == tiles.count())) collect_whole(p, sums.to, s);
    }
  }
  if (!st.grad_input) return;
  sums.to.prepare();
  for (int64_t image = st.image_begin; image < st.image_end; ++image) {
    const StripeSums<T> done(p, st, image, memory);
    if (done.apart) done.store_all(p, as, st, image);
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
