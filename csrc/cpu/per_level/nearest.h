// The nearest pixel: no weights and no windows, an index a pixel, and values moved as they are, whatever
// their dtype. Included by level sources only; see problem.h.
#pragma once

#include "by_rows.h"
#include "words.h"

namespace stn::cpu {
namespace STN_LEVEL {

constexpr int32_t kOutside = -1, kNotANumber = -2;  // instead of an offset

// Rows of the input that count, and elements from a pixel to the next.
struct Plane {
  int64_t begin, end;
  int64_t axis[kMaxAxes];

  STN_INLINE Plane(int64_t first, int64_t behind, const int64_t* strides) : begin(first), end(behind) {
    for (int d = 0; d < kMaxAxes; ++d) axis[d] = strides[d];
  }
};

// Keeps the pixel nearest to each coordinate, to the even one of two.
template <class T, Padding padding>
struct KeepNearest {
  const Problem& p;
  const Plane& plane;
  int64_t* offset;
  Vec<T> left, top, width, height;

  STN_INLINE KeepNearest(const Problem& problem, const Plane& of, const Window& w, int64_t* to)
      : p(problem), plane(of), offset(to) {
    left = Vec<T>{} + static_cast<T>(w.left);
    top = Vec<T>{} + static_cast<T>(w.top);
    width = Vec<T>{} + static_cast<T>(p.in[0]);
    height = Vec<T>{} + static_cast<T>(p.in[1]);
  }

  STN_INLINE void operator()(int64_t at, Vec<T> x, Vec<T> fx, Vec<T> y, Vec<T> fy) const {
    typedef int64_t Wide __attribute__((vector_size(Simd<T>::lanes * sizeof(int64_t))));
    const Vec<T> column = source_index<padding>(rounded<T>(x + left, fx), width, p.align_corners),
                 row = source_index<padding>(rounded<T>(y + top, fy), height, p.align_corners);
    const auto none = (column < 0) | (row < static_cast<T>(plane.begin)) | (row >= static_cast<T>(plane.end));
    const Wide c = __builtin_convertvector(to_index<T>(column), Wide),
               r = __builtin_convertvector(to_index<T>(row), Wide);
    const Wide sum = r * plane.axis[1] + c * plane.axis[0],
               found = sum | __builtin_convertvector(none, Wide);  // -1 where there is none
    __builtin_memcpy(offset + at, &found, sizeof(found));
  }
};

template <int dims, class T>
__attribute__((noinline)) void nearest_rows(const Problem& p, const Plane& plane, int64_t map,
                                            TileRadial<T>* radial, int64_t* offset) {
  const OutTile& t = radial->tile();
  const T* values = radial->all();
  const MapLines lines = map_lines(p, map);
  TapBlock<T, dims, 1> b;
  Streams s;
  Positions l;
  for (int64_t r = 0; r < t.rows; ++r, offset += t.columns) {
    const RowBlock at = row_of(t, r);
    b.count = at.count;
    place(p, lines, at, values + r * t.columns, &s, &l);
    fill_taps<Weights::value, false>(p, l, &b);
    fill_offsets<1>(b, plane.axis, offset);
    for (int k = 0; k < b.count; ++k) {
      const int64_t slab = b.axis[dims - 1].pixel[0][k];
      if (slab < plane.begin || slab >= plane.end) offset[k] = kOutside;
      if (b.weight[0][0][k] != 1) offset[k] = kNotANumber;
    }
  }
}

// The offsets of a tile's pixels, row by row; negative where they read none of the plane. window: null, or
// where it is said which pixels of the image they read, if these are few enough to be copied; offsets are
// then counted by its pitch. Whether they are.
template <class T>
__attribute__((noinline)) bool find_nearest(const Problem& p, Plane plane, int64_t map, TileRadial<T>* radial,
                                            int64_t* offset, Window* window) {
  bool copied = false;
  const bool found =
      p.dims == 2 && with_map<T>(p, map, radial->tile(), radial, [&](auto& m) STN_LAMBDA {
        if (!m.tame() || p.in[0] >= 1 << 22 || p.in[1] >= 1 << 22) return false;
        const Window w = window_of(m.range(0), m.range(1));
        if (window) {
          const auto within = [](int64_t at, int64_t length) STN_LAMBDA {
            return at < 0 ? 0 : at < length ? at : length - 1;
          };
          const int64_t left = within(w.left, p.in[0]), right = within(w.left + w.columns - 1, p.in[0]),
                        top = within(w.top, p.in[1]), bottom = within(w.top + w.rows - 1, p.in[1]);
          *window = window_of(Range{left, right - 1}, Range{top, bottom - 1});
          const bool inside =
              w.left >= 0 && w.top >= 0 && w.left + w.columns <= p.in[0] && w.top + w.rows <= p.in[1];
          copied = fits(m.tile(), *window) && (inside || !repeats(p.padding));
          if (copied) plane.axis[0] = 1, plane.axis[1] = window->pitch;
        }
        with_padding(p.padding, [&](auto padding) STN_LAMBDA {
          m.locate(w.left, w.top, KeepNearest<T, padding.value>(p, plane, w, offset));
        });
        return true;
      });
  if (found) return copied;
  p.dims == 2 ? nearest_rows<2>(p, plane, map, radial, offset)
              : nearest_rows<3>(p, plane, map, radial, offset);
  return false;
}

// What stands for pixels that are not read, (channels,) each: outside, and for a coordinate that is not a
// number.
template <class E>
struct Absent {
  static constexpr int64_t most = 64;  // channels at once
  E outside[most], nan[most];

  STN_INLINE Absent(const Problem& p, int64_t channel_begin, int64_t channel_end) {
    for (int64_t c = channel_begin; c < channel_end; ++c) {
      const int64_t bits = p.fill_bits ? p.fill_bits[c] : 0;
      __builtin_memcpy(outside + (c - channel_begin), &bits, sizeof(E));
      __builtin_memcpy(nan + (c - channel_begin), &p.nan_bits, sizeof(E));
    }
  }
  // Of an offset that is negative.
  STN_INLINE const E* at(int64_t offset) const { return offset == kOutside ? outside : nan; }
};

// `bytes` bytes, of which the last whole vector goes back over the one before it.
STN_INLINE void copy_bytes(const void* from, void* to, int64_t bytes) {
  typedef char V __attribute__((vector_size(STN_VECTOR_BYTES)));
  constexpr int64_t step = STN_VECTOR_BYTES;
  if (bytes < step) {
    __builtin_memcpy(to, from, static_cast<size_t>(bytes));
    return;
  }
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
  for (int64_t x = 0; x < bytes - step; x += step) store(target + x, load<V>(source + x));
  store(target + bytes - step, load<V>(source + bytes - step));
}

// Moves `count` pixels of channels that lie side by side: so many, or as many as `channels` says.
template <class E, int fixed>
STN_INLINE void move_pixels(const E* from, const int64_t* offset, int64_t count, int64_t channels,
                            const Absent<E>& absent, int64_t pixel, E* to) {
  for (int64_t k = 0; k < count; ++k) {
    const E* source = from + offset[k];
    if (__builtin_expect(offset[k] < 0, 0)) source = absent.at(offset[k]);
    if constexpr (fixed > 0) {
      for (int c = 0; c < fixed; ++c) to[k * pixel + c] = source[c];
    } else {
      copy_bytes(source, to + k * pixel, channels * int64_t{sizeof(E)});
    }
  }
}

// Moves `count` pixels of one channel.
template <class E>
STN_INLINE void move_values(const E* from, const int64_t* offset, int64_t count, E outside, E nan,
                            int64_t pixel, E* to) {
  for (int64_t k = 0; k < count; ++k) {
    const int64_t at = offset[k];
    to[k * pixel] = at >= 0 ? from[at] : at == kOutside ? outside : nan;
  }
}

// A tile's offsets into an image or its window.
struct Offsets {
  const int64_t* at;
  bool inside;  // whether all pixels have one

  STN_INLINE Offsets(const int64_t* offset, int64_t count) : at(offset) {
    int64_t all = 0;
    for (int64_t k = 0; k < count; ++k) all |= offset[k];
    inside = all >= 0;
  }
};

template <class E>
STN_INLINE void copy_window(const E* from, int64_t row, const Window& w, E* to) {
  const size_t bytes = sizeof(E) * static_cast<size_t>(w.columns);
  for (int64_t y = w.top; y < w.top + w.rows; ++y, to += w.pitch) {
    expect(from + (y + kRowsAhead) * row + w.left, static_cast<int64_t>(bytes));
    __builtin_memcpy(to, from + y * row + w.left, bytes);
  }
}

// Whether all channels of a pixel are moved together.
STN_INLINE bool lie_side_by_side(const Problem& p) {
  return is_interleaved(p.input) && is_interleaved(p.output);
}

// window: null, or of the image, and memory for it.
template <class E>
STN_INLINE void move_tile(const Problem& p, const Unit& u, int64_t map, const OutTile& t,
                          const Offsets& offsets, const Absent<E>& absent, const Window* window, E* memory) {
  const int64_t channels = u.channel_end - u.channel_begin, pixel = p.output.axis[0];
  const bool interleaved = lie_side_by_side(p) && channels > 1;
  const E* image = reinterpret_cast<const E*>(p.input.data) + p.image_of(map) * p.input.batch +
                   u.channel_begin * p.input.channel;
  for (int64_t c = 0; c < (interleaved ? 1 : channels); ++c) {
    const E* from = image + c * p.input.channel;
    if (window) {
      copy_window(from, p.input.axis[1], *window, memory);
      from = memory - window->top * window->pitch - window->left;
    }
    for (int64_t r = 0; r < t.rows; ++r) {
      E* to = reinterpret_cast<E*>(address(p.output, sizeof(E), p, map, u.channel_begin + c, row_of(t, r)));
      const int64_t* at = offsets.at + r * t.columns;
      if (interleaved) {
        channels == 3 ? move_pixels<E, 3>(from, at, t.columns, channels, absent, pixel, to)
                      : move_pixels<E, 0>(from, at, t.columns, channels, absent, pixel, to);
      } else if (offsets.inside && pixel == 1) {
        for (int64_t k = 0; k < t.columns; ++k) to[k] = from[at[k]];
      } else {
        move_values(from, at, t.columns, absent.outside[c], absent.nan[c], pixel, to);
      }
    }
  }
}

// Adds channels that lie side by side in memory, kBlock at a time by way of `grad`.
template <class T>
STN_INLINE void add_pixel(const Rows<T>& as, const char* from, int64_t channels, T* grad, T* to) {
  for (int64_t c = 0; c < channels; c += kBlock) {
    const int64_t count = channels - c < kBlock ? channels - c : kBlock;
    const T* values = grad;
    if (as.direct) {
      values = reinterpret_cast<const T*>(from) + c;
    } else {
      as.load(from + c * as.size, 1, 1, count, grad, 0);
    }
    for (int64_t k = 0; k < count; k += Simd<T>::lanes) {
      add_some(to + c + k, load_some<Vec<T>>(values + k, count - k), count - k);
    }
  }
}

// Adds a tile's gradients, through offsets in `to`.
template <class T>
__attribute__((noinline)) void add_nearest(const Problem& p, const Rows<T>& as, int64_t channel_begin,
                                           int64_t channel_end, int64_t map, const OutTile& t,
                                           const int64_t* offset, const Accumulator<T>& to) {
  alignas(64) T grad[kBlock];
  if (p.grad.channel == 1 && to.channel == 1) {
    for (int64_t r = 0; r < t.rows; ++r, offset += t.columns) {
      const char* row = address(p.grad, as.size, p, map, channel_begin, row_of(t, r));
      for (int64_t k = 0; k < t.columns; ++k, row += p.grad.axis[0] * as.size) {
        if (offset[k] >= 0) add_pixel(as, row, channel_end - channel_begin, grad, to.data + offset[k]);
      }
    }
    return;
  }
  for (int64_t r = 0; r < t.rows; ++r, offset += t.columns) {
    for (int64_t c = channel_begin; c < channel_end; ++c) {
      as.load(address(p.grad, as.size, p, map, c, row_of(t, r)), 1, p.grad.axis[0], t.columns, grad, 0);
      T* image = to.data + (c - channel_begin) * to.channel;
      for (int64_t k = 0; k < t.columns; ++k) {
        if (offset[k] >= 0) image[offset[k]] += grad[k];
      }
    }
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
