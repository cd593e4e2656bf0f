// The input's gradient over a tile of the output: the tile's gradients are spread into a window's cells, and
// the window is added to the image, what lies outside folded back as the padding says. Included by level
// sources only; see problem.h.
#pragma once

#include "grad_theta.h"

namespace stn::cpu {
namespace STN_LEVEL {

// ---- the image's side ----

// A stripe of an image's gradient, which is computed in T: rows, or slices of volumes, [begin, end) along the
// last axis. A place (x, y, z) of channel c lies at data[c * channel + x * axis[0] + ...].
template <class T>
struct Accumulator {
  const Problem* problem;
  T* data;
  int64_t channels, channel, axis[kMaxAxes];
  int64_t begin, end;
  // Those that hold sums already. The others hold nothing yet, not even zeros: they are cleared when a window
  // first touches them, so that they are in a cache when it is added.
  mutable int64_t held_begin, held_end;

  // The row that row y of a window is added to; null: none of the stripe's.
  STN_INLINE T* row(int64_t y) const {
    const Problem& p = *problem;
    const int64_t to = source_index(y, p.in[1], p.padding, p.align_corners);
    return to < begin || to >= end ? nullptr : data + to * axis[1];
  }

  // Whether a window holds every place of the stripe, each once.
  STN_INLINE bool is_covered(const Window& w) const {
    const Problem& p = *problem;
    return p.padding == Padding::zeros && w.left <= 0 && w.left + w.columns >= p.in[0] && w.top <= begin &&
           w.top + w.rows >= end;
  }

  STN_INLINE bool holds(int64_t row) const { return row >= held_begin && row < held_end; }
  STN_INLINE bool is_fresh() const { return held_begin == held_end; }
  STN_INLINE void hold_all() const { held_begin = begin, held_end = end; }

  // Rows of a window of planes have been written, or added to where they held sums.
  STN_INLINE void hold(const Window& w) const {
    const int64_t first = w.top > begin ? w.top : begin, last = w.top + w.rows < end ? w.top + w.rows : end;
    if (first >= last) return;
    if (is_fresh()) held_begin = first, held_end = last;
    if (last < held_begin) clear(last, held_begin);
    if (first > held_end) clear(held_end, first);
    if (first < held_begin) held_begin = first;
    if (last > held_end) held_end = last;
  }

  // To be called before anything is added to single places.
  STN_INLINE void prepare() const {
    if (held_begin == begin && held_end == end) return;
    clear(begin, held_begin);
    clear(held_end, end);
    hold_all();
  }

  // f(first element of a row of channel 0, y, z) for rows, or slices, [first, last)
  template <class F>
  STN_INLINE void for_rows(int64_t first, int64_t last, const F& f) const {
    const Problem& p = *problem;
    const bool volumes = p.dims == 3;
    for (int64_t z = volumes ? first : 0; z < (volumes ? last : 1); ++z) {
      for (int64_t y = volumes ? 0 : first; y < (volumes ? p.in[1] : last); ++y) {
        f(data + y * axis[1] + (volumes ? z * axis[2] : 0), y, z);
      }
    }
  }

  static STN_INLINE void put_zeros(T* at, int64_t count) {
    __builtin_memset(at, 0, sizeof(T) * static_cast<size_t>(count));
  }

 private:
  __attribute__((noinline)) void clear(int64_t first, int64_t last) const {
    const int64_t width = problem->in[0];
    if (problem->dims == 2 && axis[0] == 1 && axis[1] == width) {
      for (int64_t c = 0; c < channels; ++c)
        put_zeros(data + c * channel + first * width, (last - first) * width);
      return;
    }
    for_rows(first, last, [&](T* row, int64_t, int64_t) STN_LAMBDA {
      for (int64_t c = 0; c < (channel == 1 ? 1 : channels); ++c) {
        for (int64_t x = 0; x < width; ++x) {
          put_zeros(row + c * channel + x * axis[0], channel == 1 ? channels : 1);
        }
      }
    });
  }
};

// Adds the first `count` of a vector.
template <class T>
STN_INLINE void add_some(T* to, Vec<T> v, int64_t count) {
  store_some(to, load_some<Vec<T>>(to, count) + v, count);
}

// Adds a line of a window to a row of pixels that lie side by side, outside folded back.
template <class T>
STN_INLINE void add_line(const Problem& p, const T* line, const Window& w, T* row) {
  const Columns in(p, w);
  const int64_t end = in.first + in.count;
  const T* from = line - w.left;
  for (int64_t x = in.first; x < end; x += Simd<T>::lanes) {
    add_some(row + x, load<Vec<T>>(from + x), end - x);
  }
  for (int64_t x = w.left; x < w.left + w.columns; ++x) {
    if (in.count > 0 && x == in.first) x = end;
    if (x >= w.left + w.columns) break;
    row[source_index(x, p.in[0], p.padding, p.align_corners)] += from[x];
  }
}

// ---- planes ----

// Output pixels that wait to be added. Many at a time: a vector that has just been written is slow to be read
// in parts.
template <int channels, class T>
struct Queue {
  static constexpr int capacity = kQueued;
  int count = 0;
  alignas(64) int32_t cell[capacity];
  alignas(64) T weight[4 * capacity];  // as store_quads leaves them
  alignas(64) T grad[channels][capacity];
};

// To add to four pixels in memory is slow; so the four products go, as one vector, into the cell of the first
// tap's place, and each place then collects from the four cells that it belongs to. All cells are 0 before
// and after.
template <class T>
struct Cells {
  static constexpr int64_t margin = 8;  // places before the first cell and behind the last
  // Elements of a channel.
  static STN_INLINE int64_t plane(const Window& w) { return 4 * (w.pitch * (w.rows + 1) + 2 * margin); }

  T* first;  // of the window's first cell, of the first channel
  const Window& w;

  STN_INLINE Cells(T* memory, const Window& window)
      : first(memory + 4 * (window.pitch + margin)), w(window) {}

  template <int channels>
  STN_INLINE void add(const Queue<channels, T>& q) const {
    typedef typename Quad<T>::V V;
    constexpr int lanes = Simd<T>::lanes;
    const int64_t stride = plane(w);
    for (int k = 0; k < q.count; k += lanes) {
#pragma GCC unroll 16
      for (int lane = 0; lane < lanes; ++lane) {
        const V weight = load<V>(q.weight + 4 * k + quad_at<T>(lane));
        T* cell = first + 4 * static_cast<int64_t>(q.cell[k + lane]);
#pragma GCC unroll 4
        for (int c = 0; c < channels; ++c) {
          store(cell + c * stride, load<V>(cell + c * stride) + q.grad[c][k + lane] * weight);
        }
      }
    }
  }

  // Adds channel c of the window to the image's; line: to work with.
  __attribute__((noinline)) void collect(const Accumulator<T>& to, int64_t c, T* line) const {
    const Problem& p = *to.problem;
    const int64_t row = 4 * w.pitch, width = p.in[0];
    const Columns in(p, w);
    const bool zeros = p.padding == Padding::zeros;
    // What is added: all of the window, or only what lies within the image.
    const int64_t skip = zeros ? in.skip : 0, count = zeros ? (in.count > 0 ? in.count : 0) : w.columns;
    T* here = first + c * plane(w);
    for (int64_t y = 0; y < w.rows; ++y, here += row) {
      T *out = to.row(w.top + y), *next = to.row(w.top + y + kRowsAhead);
      if (next) expect(next + c * to.channel + in.first, in.count * int64_t{sizeof(T)});
      if (out && zeros && !to.holds(w.top + y)) {
        T* image = out + c * to.channel;
        const int64_t begin = count > 0 ? in.first : 0;
        put_zeros(image, begin);
        collect_row(here + 4 * skip, here - row + 4 * skip, count, [&](int64_t x, Vec<T> sums) STN_LAMBDA {
          store_some(image + begin + x, sums, count - x);
        });
        put_zeros(image + begin + count, width - begin - count);
      } else if (out && zeros) {
        T* image = out + c * to.channel + in.first;
        collect_row(here + 4 * skip, here - row + 4 * skip, count,
                    [&](int64_t x, Vec<T> sums) STN_LAMBDA { add_some(image + x, sums, count - x); });
      } else if (out) {
        collect_row(here, here - row, count,
                    [&](int64_t x, Vec<T> sums) STN_LAMBDA { store(line + x, sums); });
        add_line(p, line, w, out + c * to.channel);
      }
      if (y > 0) store_zeros(here - row, row);  // while it is in the cache
    }
  }

 private:
  static STN_INLINE void put_zeros(T* at, int64_t count) {  // mostly few
    for (int64_t x = 0; x < count; x += Simd<T>::lanes) store_some(at + x, Vec<T>{}, count - x);
  }
};

// Rows of a tile of the output, and of its window, that matter to a stripe.
struct Overlap {
  int64_t begin, end;
};

// Along a row and from row to row coordinates rise or fall, but for splines': a row whose ends lie on one
// side of the stripe touches none of it.
template <class T>
STN_INLINE Overlap overlap_of(const Accumulator<T>& to, const OutTile& t, const Window& w,
                              const Located<T>& l) {
  const Problem& p = *to.problem;
  Overlap rows{0, t.rows};
  const bool inside = w.top >= to.begin && w.top + w.rows <= to.end;
  if (inside || p.points || w.top < 0 || w.top + w.rows > p.in[1]) return rows;
  const int64_t low = (to.begin - w.top - 1) * w.pitch, high = (to.end - w.top) * w.pitch;
  const auto touches = [&](int64_t r) STN_LAMBDA {
    const int64_t first = l.tap[r * t.columns], last = l.tap[(r + 1) * t.columns - 1];
    return !((first < low && last < low) || (first >= high && last >= high));
  };
  while (rows.begin < rows.end && !touches(rows.begin)) ++rows.begin;
  while (rows.end > rows.begin && !touches(rows.end - 1)) --rows.end;
  return rows;
}

template <int channels, class T>
STN_INLINE void spread_planes(const TileView<T>& grad, const OutTile& t, const Overlap& rows,
                              const Located<T>& l, const Cells<T>& cells, SlopeSums<T>* s) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const bool direct = grad.as.direct && grad.pixel == 1;
  Queue<channels, T> queue;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    grad.expect(channels, r + kRowsAhead, t.columns);
    if (!direct) load_lines(grad, channels, r, t.columns, s->grads[0]);
    for (int64_t k = 0; k < t.columns; k += lanes) {
      const int64_t at = r * t.columns + k, count = t.columns - k;
      const auto fx = load<Vec<T>>(l.fx + at), fy = load<Vec<T>>(l.fy + at);
      const Vec<T> ex = 1 - fx, ey = 1 - fy;
      store(queue.cell + queue.count, load<IndexVec<T>>(l.tap + at));
      store_quads<T>(queue.weight + 4 * queue.count, ey * ex, ey * fx, fy * ex, fy * fx);
      for (int c = 0; c < channels; ++c) {
        const T* from = direct ? grad.direct(c, r, k) : s->grads[c] + k;
        store(queue.grad[c] + queue.count, load_some<Vec<T>>(from, count));
      }
      queue.count += lanes;
      if (queue.count < queue.capacity) continue;
      cells.add(queue);
      queue.count = 0;
    }
  }
  cells.add(queue);
}

// Up to kFew planes.
template <class T>
__attribute__((noinline)) void add_planes(const TileView<T>& grad, const OutTile& t, const Window& w,
                                          int64_t channels, const Located<T>& l, const Accumulator<T>& to,
                                          T* memory, SlopeSums<T>* s, T* line) {
  const Cells<T> cells(memory, w);
  const Overlap rows = overlap_of(to, t, w, l);
  static_assert(kFew == 4, "one case each");
  switch (channels) {
    case 1:
      spread_planes<1>(grad, t, rows, l, cells, s);
      break;
    case 2:
      spread_planes<2>(grad, t, rows, l, cells, s);
      break;
    case 3:
      spread_planes<3>(grad, t, rows, l, cells, s);
      break;
    default:
      spread_planes<4>(grad, t, rows, l, cells, s);
  }
  for (int64_t c = 0; c < channels; ++c) cells.collect(to, c, line);
}

// ---- vectors of channels ----

// Where a tile's pixels add vectors of channels: a window's places, or the image itself.
template <class T>
struct GroupTarget {
  T* values;
  int64_t place, row;
};

template <class T>
__attribute__((noinline)) void spread_group(const TileView<T>& grad, const OutTile& t, int64_t channels,
                                            const Located<T>& l, const GroupTarget<T>& to) {
  constexpr int64_t lanes = Simd<T>::lanes;
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t k = 0; k < t.columns; k += lanes) {
      const int64_t count = t.columns - k < lanes ? t.columns - k : lanes;
      Vec<T> g[lanes];
      load_group(grad, channels, r, k, count, g);
      const int64_t first = r * t.columns + k;
      const WeightArrays<T> w(l, first);
      for (int64_t lane = 0; lane < count; ++lane) {
        T *upper = to.values + l.tap[first + lane] * to.place, *lower = upper + to.row;
        store(upper, load<Vec<T>>(upper) + w.w00[lane] * g[lane]);
        store(upper + to.place, load<Vec<T>>(upper + to.place) + w.w01[lane] * g[lane]);
        store(lower, load<Vec<T>>(lower) + w.w10[lane] * g[lane]);
        store(lower + to.place, load<Vec<T>>(lower + to.place) + w.w11[lane] * g[lane]);
      }
    }
  }
}

// Adds the place of a window at column x of the image to a row of it, outside folded back.
template <class T>
STN_INLINE void add_place(const Accumulator<T>& to, int64_t channels, int64_t x, const T* place, T* row) {
  const Problem& p = *to.problem;
  const int64_t column = source_index(x, p.in[0], p.padding, p.align_corners);
  if (column < 0) return;
  T* pixel = row + column * to.axis[0];
  for (int64_t c = 0; c < channels; ++c) pixel[c * to.channel] += place[c];
}

// Adds a window of vectors of channels to the image, and leaves it 0. Of a fresh stripe it holds every place.
template <class T>
__attribute__((noinline)) void collect_group(const Window& w, int64_t channels, const Accumulator<T>& to,
                                             T* cells) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const Columns in(*to.problem, w);
  const int64_t count = in.count > 0 ? in.count : 0, behind = in.skip + count;
  const bool planes = to.axis[0] == 1 && to.channel != 1;
  const bool fresh = to.is_fresh();
  const Vec<T> zero{};
  const auto put = [&](T* at, Vec<T> v, int64_t n)
                       STN_LAMBDA { store_some(at, (fresh ? zero : load_some<Vec<T>>(at, n)) + v, n); };
  for (int64_t y = 0; y < w.rows; ++y) {
    T* from = cells + y * w.pitch * lanes;
    T* out = to.row(w.top + y);
    for (int64_t k = 0; out && planes && k < count; k += lanes) {
      Vec<T> v[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) v[i] = load<Vec<T>>(from + (in.skip + k + i) * lanes);
      transpose<T>(v);
      for (int64_t c = 0; c < channels; ++c) put(out + c * to.channel + in.first + k, v[c], count - k);
    }
    for (int64_t k = 0; out && !planes && k < count; ++k) {
      put(out + (in.first + k) * to.axis[0], load<Vec<T>>(from + (in.skip + k) * lanes), channels);
    }
    if (out && to.problem->padding != Padding::zeros) {
      const int64_t before = count > 0 ? in.skip : w.columns;
      for (int64_t x = 0; x < before; ++x) add_place(to, channels, w.left + x, from + x * lanes, out);
      for (int64_t x = behind; count > 0 && x < w.columns; ++x) {
        add_place(to, channels, w.left + x, from + x * lanes, out);
      }
    }
    store_zeros(from, w.columns * lanes);
  }
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
