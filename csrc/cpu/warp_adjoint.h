// The adjoint of any map (../warp.h), by tiles of the input: each takes from the bundles of output pixels
// that touch it, in order, what falls into it. Included by level sources only; see kernels.h.
#pragma once

#include "packed_kernels.h"
#include "warp_kernels.h"

namespace stn::cpu {
namespace STN_LEVEL {

template <class T>
STN_INLINE OutTile pixels_of(const Warp<T>& w, int64_t bundle) {
  const Bundles bundles(w);
  const int64_t row = bundles.row(bundle), j = bundles.column(bundle);
  const int64_t rows = w.rows() - row, columns = w.out[0] - j;
  return {row, j, rows < kBundleRows ? rows : kBundleRows, columns < kWalk ? columns : kWalk};
}

// The bundles' radial functions: of all bundles where these are few, otherwise of the last one asked for.
template <class T>
class BundleRadial {
 public:
  STN_INLINE BundleRadial(const Warp<T>& w, T* values) : w_(w), values_(values), slots_(radial_slots(w)) {
    for (int64_t& bundle : held_) bundle = -1;
  }

  STN_INLINE TileRadial<T>* of(int64_t bundle) {
    const int64_t slot = slots_ > 1 ? bundle : 0;
    if (held_[slot] != bundle) {
      tiles_[slot] = TileRadial<T>(w_, pixels_of(w_, bundle), values_ + slot * radial_values(w_));
      held_[slot] = bundle;
    }
    return tiles_ + slot;
  }

 private:
  const Warp<T>& w_;
  T* values_;
  int64_t slots_, held_[kRadialSlots];
  TileRadial<T> tiles_[kRadialSlots];
};

// ---- where bundles fall ----

template <int dims, class T>
STN_INLINE void widen(WarpBox* box, const AxisBlock<T>* axis, int count) {
  for (int d = 0; d < dims; ++d) {
    T low = static_cast<T>(box->low[d]), high = static_cast<T>(box->high[d]);
    for (int k = 0; k < count; ++k) {
      low = axis[d].tap[k] < low ? axis[d].tap[k] : low;
      high = axis[d].tap[k] > high ? axis[d].tap[k] : high;
    }
    box->low[d] = static_cast<int32_t>(low);
    box->high[d] = static_cast<int32_t>(high);
  }
}

template <int dims, class T>
__attribute__((noinline)) WarpBox box_of_rows(const Warp<T>& w, int64_t map, TileRadial<T>* radial) {
  const OutTile& t = radial->tile();
  const T* values = radial->all();
  AxisBlock<T> axis[dims];
  Streams s;
  Positions l;
  WarpBox box;
  for (int d = 0; d < dims; ++d) box.low[d] = 1 << 30, box.high[d] = -1;
  for (int64_t r = 0; r < t.rows; ++r) {
    const RowBlock at = row_of(t, r);
    place(w, map, at, values + r * t.columns, &s, &l);
    for (int d = 0; d < dims; ++d) fill_axis(w, l, d, static_cast<int>(padded<T>(at.count)), axis + d);
    widen<dims>(&box, axis, at.count);
  }
  return box;
}

// Whole coordinates, of which those before and behind the image touch nothing.
template <class T>
__attribute__((noinline)) WarpBox box_of_plane(const Warp<T>& w, int64_t map, TileRadial<T>* radial) {
  PlaneTile<T> tile;
  WarpBox box;
  const TileMap<T> m(w, map, radial, &tile);
  for (int d = 0; d < 2; ++d) {
    box.low[d] = static_cast<int32_t>(m.range(d).low);
    box.high[d] = static_cast<int32_t>(m.range(d).high);
  }
  return box;
}

// boxes: (maps, bundles), of the bundles that the part has whole.
template <class T>
void warp_boxes(const Warp<T>& w, const WarpPart& part, T* values, WarpBox* boxes) {
  const Bundles bundles(w);
  const int64_t begin = part.row_begin / kBundleRows * bundles.across,
                end = (part.row_end + kBundleRows - 1) / kBundleRows * bundles.across;
  for (int64_t bundle = begin; bundle < end; ++bundle) {
    TileRadial<T> radial(w, pixels_of(w, bundle), values);
    for (int64_t map = part.map_begin; map < part.map_end; ++map) {
      boxes[map * bundles.count + bundle] = is_planar(w)  ? box_of_plane(w, map, &radial)
                                            : w.dims == 2 ? box_of_rows<2>(w, map, &radial)
                                                          : box_of_rows<3>(w, map, &radial);
    }
  }
}

// f(radial functions over a bundle's pixels, map), of those that may touch a tile.
template <class T, class F>
STN_INLINE void for_bundles(const Warp<T>& w, const TilePart& part, const Readers& readers,
                            BundleRadial<T>* radial, const F& f) {
  const Bundles bundles(w);
  for (int64_t bundle = 0; bundle < bundles.count; ++bundle) {
    for (const int64_t* map = readers.begin; map < readers.end; ++map) {
      if (part.boxes && !touches(part.boxes[*map * bundles.count + bundle], part.tile, w.dims)) continue;
      f(radial->of(bundle), *map);
    }
  }
}

// ---- planes, as for affine maps (adjoint_kernels.h) ----

template <class T>
struct WarpSource {
  const Warp<T>& w;
  const TilePart& part;
  BundleRadial<T>* radial;
};

// f(deposits, map, i, j): the vector of output pixels from (i, j) on may touch the tile. What lies behind the
// row's end is no pixel.
template <class T, class F>
STN_INLINE void for_deposits(const WarpSource<T>& source, const Readers& readers, const TileFrame<T>& frame,
                             const F& f) {
  const Window cells{frame.tile.top - 2, frame.tile.left - 2, frame.tile.height + 4, frame.tile.width + 4,
                     frame.pitch};
  PlaneTile<T> tile;
  for_bundles(source.w, source.part, readers, source.radial,
              [&](TileRadial<T>* radial, int64_t map) STN_LAMBDA {
                const TileMap<T> m(source.w, map, radial, &tile);
                const OutTile& t = m.tile();
                m.template locate<true>(cells);
                for (int64_t r = 0; r < t.rows; ++r) {
                  for (int64_t k = 0; k < t.columns; k += Simd<T>::lanes) {
                    const int64_t at = r * t.columns + k;
                    const auto cell = load_some<IndexVec<T>>(tile.at.tap + at, t.columns - k);
                    if (!any_lane<T>(cell)) continue;
                    const auto fx = load<Vec<T>>(tile.at.fx + at), fy = load<Vec<T>>(tile.at.fy + at);
                    const Vec<T> ex = 1 - fx, ey = 1 - fy;
                    f(Deposits<T>{cell, ey * ex, ey * fx, fy * ex, fy * fx}, map, t.top + r, t.left + k);
                  }
                }
              });
}

template <class T>
__attribute__((noinline)) void adjoint_plane(const Warp<T>& w, const TilePart& part, int64_t image,
                                             BundleRadial<T>* radial, T* scratch) {
  const Problem<T> p = planes_of(w);
  const WarpSource<T> source{w, part, radial};
  const Tile tile{part.tile.first[1], part.tile.first[0], part.tile.count[1], part.tile.count[0]};
  const auto adjoint =
      part.channels > kQuadChannels ? adjoint_vectors<T, WarpSource<T>> : adjoint_quads<T, WarpSource<T>>;
  adjoint(p, source, image, part.readers[image], part.channel, part.channels, tile, scratch);
}

// ---- whatever it is ----

// Adds what a row's pixels leave in a tile.
template <int dims, class T>
STN_INLINE void deposit(const Warp<T>& w, const TapBlock<T, dims, 1>& b, const WarpTile& tile, const T* grad,
                        int64_t channels, T* out) {
  int64_t offset[1 << dims];
  for (int t = 0; t < b.taps; ++t) offset[t] = tap_offset<dims>(w.grad_input, t);
  for (int k = 0; k < b.count; ++k) {
    bool inside[dims][2];  // of each axis' pair of pixels
    bool any = true;
    T* to = out;
    for (int d = 0; d < dims; ++d) {
      const auto tap = static_cast<int64_t>(b.axis[d].tap[k]), end = tile.first[d] + tile.count[d];
      inside[d][0] = tap >= tile.first[d] && tap < end;
      inside[d][1] = tap + 1 >= tile.first[d] && tap + 1 < end;
      any &= inside[d][0] | inside[d][1];
      to += tap * w.grad_input.axis[d];
    }
    if (!any) continue;
    const T* from = grad + k * w.grad.axis[0];
    for (int t = 0; t < b.taps; ++t) {
      const T weight = b.weight[0][t][k];
      bool taken = weight < 0 || weight > 0;  // not NaN: such a coordinate has no taps
      for (int d = 0; d < dims; ++d) taken &= inside[d][t >> d & 1];
      if (!taken) continue;
      for (int64_t c = 0; c < channels; ++c) {
        to[offset[t] + c * w.grad_input.channel] += weight * from[c * w.grad.channel];
      }
    }
  }
}

// The pixels of a tile are 0.
template <class T>
STN_INLINE void clear_tile(const Warp<T>& w, const WarpTile& tile, int64_t channels, T* out) {
  const int64_t* axis = w.grad_input.axis;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t z = 0; z < tile.count[2]; ++z) {
      for (int64_t y = 0; y < tile.count[1]; ++y) {
        T* row = out + c * w.grad_input.channel + (tile.first[2] + z) * axis[2] +
                 (tile.first[1] + y) * axis[1] + tile.first[0] * axis[0];
        if (axis[0] == 1) {
          __builtin_memset(row, 0, sizeof(T) * static_cast<size_t>(tile.count[0]));
        } else {
          for (int64_t x = 0; x < tile.count[0]; ++x) row[x * axis[0]] = 0;
        }
      }
    }
  }
}

template <int dims, bool tangent, class T>
__attribute__((noinline)) void adjoint_rows(const Warp<T>& w, const TilePart& part, int64_t image,
                                            BundleRadial<T>* bundle_radial) {
  TapBlock<T, dims, 1> b;
  Streams s;
  Positions l;
  T* out = w.grad_input.data + image * w.grad_input.batch + part.channel * w.grad_input.channel;
  clear_tile(w, part.tile, part.channels, out);
  for_bundles(w, part, part.readers[image], bundle_radial,
              [&](TileRadial<T>* radial, int64_t map) STN_LAMBDA {
                const OutTile& t = radial->tile();
                const T* values = radial->all();
                const T* grad = w.grad.data + map * w.grad.batch + part.channel * w.grad.channel;
                for (int64_t r = 0; r < t.rows; ++r) {
                  const RowBlock at = row_of(t, r);
                  b.count = at.count;
                  place(w, map, at, values + r * t.columns, &s, &l);
                  fill_taps<Weights::value, tangent>(w, l, &b);
                  deposit(w, b, part.tile, grad + offset_of(w.grad, w.out, at), part.channels, out);
                }
              });
}

// grad_input of a part.
template <class T>
void warp_adjoint(const Warp<T>& w, const TilePart& part, T* radial, T* scratch) {
  BundleRadial<T> bundle_radial(w, radial);
  for (int64_t image = part.image_begin; image < part.image_end; ++image) {
    if (is_planar(w)) {
      adjoint_plane(w, part, image, &bundle_radial, scratch);
      continue;
    }
    with_shape(w, [&](auto dims, auto tangent) STN_LAMBDA {
      adjoint_rows<dims.value, tangent.value != 0>(w, part, image, &bundle_radial);
    });
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
