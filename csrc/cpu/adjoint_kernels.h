// The adjoint, by tiles of the input: for each, the output pixels that touch it, in order, are located among
// its cells. A cell stands for a place between four pixels, its upper left one naming it; those that touch
// the tile make it up, and a ring around them takes what falls outside.
#pragma once

#include "coordinates.h"

namespace stn::cpu {
namespace STN_LEVEL {

// ---- which output pixels touch a tile ----

// A range of output rows or of output pixels along a row.
struct Span {
  int64_t begin, end;
};

struct Bounds {
  double low, high;
};

// One image of a tile in the padded plane, along an axis: the coordinates that touch it, and the whole
// numbers below coordinates that it may own. Reflection has several, apart from each other; other padding
// one.
struct Copy {
  Bounds touching, own;
};

constexpr double kFar = 1e300;
constexpr int64_t kManyCopies = 16;

// Copies of the pixels [first, first + count) of an axis whose coordinates are exact.
template <class T>
struct Copies {
  int64_t begin = 0, end = 1;
  int64_t first, count, length, span;
  Padding padding;
  bool align_corners;

  STN_INLINE Copies(const Problem<T>& p, const Axis<T>& axis, int64_t tile_first, int64_t tile_count)
      : first(tile_first),
        count(tile_count),
        length(axis.length),
        padding(p.padding),
        align_corners(p.frame.align_corners) {
    span = align_corners ? length - 1 : length;
    if (padding != Padding::reflection) return;
    if (span == 0) {  // all fall on the only pixel
      padding = Padding::border;
      first = 0;
      count = length;
      return;
    }
    const auto copy_of = [&](double x) {
      return static_cast<int64_t>(__builtin_floor(x / static_cast<double>(span)));
    };
    begin = copy_of(axis.map.one - axis.reach - 1);
    end = copy_of(axis.map.one + axis.reach + 1) + 1;
  }

  STN_INLINE int64_t count_copies() const { return end - begin; }

  STN_INLINE Copy at(int64_t k) const {
    Copy c{{static_cast<double>(first - 1) - kMargin, static_cast<double>(first + count) + kMargin},
           {-kFar, kFar}};
    if (padding == Padding::border) {
      // What lies before or behind the image is brought to its outer pixels.
      if (first == 0) c.touching.low = -kFar;
      if (first + count == length) c.touching.high = kFar;
    } else if (padding == Padding::reflection) {
      const double from = static_cast<double>(k * span), low = c.touching.low, high = c.touching.high;
      // Mirrored, a coordinate x of the image lies at the copy's far end less x.
      const double far = from + static_cast<double>(align_corners ? span : span - 1);
      c.touching = k & 1 ? Bounds{far - high, far - low} : Bounds{from + low, from + high};
      c.own = {from, from + static_cast<double>(span)};
    }
    return c;
  }
};

// Narrows a range of whole numbers to those in [low, high], and perhaps one more on either side. NaN narrows
// nothing.
STN_INLINE Span narrow(Span s, double low, double high) {
  // Compared as doubles: the bounds may be larger than any integer.
  if (low >= static_cast<double>(s.end) || high < static_cast<double>(s.begin)) return {0, 0};
  if (low > static_cast<double>(s.begin)) s.begin = static_cast<int64_t>(low);
  if (high < static_cast<double>(s.end - 1)) s.end = static_cast<int64_t>(high) + 1;
  return s;
}

// Which pixels of a row have coordinates, along one axis, that can lie in bounds.
struct Crossing {
  double inverse, centre;  // 1 / slope, or 0 where all of a row lies within kMargin
  Bounds bounds;

  STN_INLINE Crossing(const AxisMap& m, Bounds b) : inverse(0), centre(m.centre_j), bounds(b) {
    constexpr double flat = kMargin / (1 << 24);
    if (m.x < -flat || m.x > flat) inverse = 1 / m.x;
  }

  // Narrows [*low, *high]; offset is the row's coordinate at the centre.
  STN_INLINE void narrow(double offset, double* low, double* high) const {
    if (inverse == 0) {
      if (offset < bounds.low || offset > bounds.high) *high = -1;
      return;
    }
    const double one = (bounds.low - offset) * inverse + centre,
                 other = (bounds.high - offset) * inverse + centre;
    const double from = one < other ? one : other, to = one < other ? other : one;
    *low = *low > from ? *low : from;
    *high = *high < to ? *high : to;
  }
};

// The numbers along an output axis that can touch bounds, by the inverse map: a and b are the axis'
// derivatives by x and y.
STN_INLINE Span touching(double a, double b, const AxisMap& x, const AxisMap& y, Bounds bx, Bounds by,
                         double centre, int64_t length) {
  const double x0 = a * (bx.low - x.one), x1 = a * (bx.high - x.one);
  const double y0 = b * (by.low - y.one), y1 = b * (by.high - y.one);
  const double low = (x0 < x1 ? x0 : x1) + (y0 < y1 ? y0 : y1),
               high = (x0 < x1 ? x1 : x0) + (y0 < y1 ? y1 : y0);
  constexpr double largest = 1e9;  // keeps rounding well below the margin
  const bool sound =
      a > -largest && a < largest && b > -largest && b < largest && low - low == 0 && high - high == 0;
  return sound ? narrow({0, length}, low + centre - 1, high + centre + 1) : Span{0, length};
}

// ---- where they fall ----

// What a vector of output pixels adds to a tile: the cell of each, and its weights for the cell's four
// pixels.
template <class T>
struct Deposits {
  IndexVec<T> cell;
  Vec<T> w00, w01, w10, w11;
};

constexpr int64_t kSteps = 256;  // output rows and columns that are prepared at a time
// Which of so few pixels of a row touch a tile takes longer to tell than to try them all.
constexpr int64_t kShortRow = 48;

template <class T>
struct TileFrame {
  const Tile& tile;
  int64_t pitch;  // cells in a row

  STN_INLINE TileFrame(const Tile& t, int64_t cells) : tile(t), pitch(cells) {}
  STN_INLINE int64_t rows() const { return tile.height + 3; }
};

// Finds a vector of output pixels in a tile.
// Coordinates are counted from the image's first pixel where padding folds them or they may not be numbers,
// otherwise from the tile's first cell.
template <Padding padding, bool numbers, class T>
struct Locator {
  static constexpr bool folds = padding != Padding::zeros || !numbers;
  const Geometry<T>& g;
  const TileFrame<T>& t;
  Vec<T> left, top, last_x, last_y, pitch;
  Vec<T> low_x, high_x, low_y, high_y;

  STN_INLINE Locator(const Geometry<T>& geometry, const TileFrame<T>& frame, const Copy& cx, const Copy& cy)
      : g(geometry), t(frame) {
    const Vec<T> zero{};
    left = zero + static_cast<T>(t.tile.left - 2);
    top = zero + static_cast<T>(t.tile.top - 2);
    last_x = zero + static_cast<T>(t.tile.width + 2);
    last_y = zero + static_cast<T>(t.tile.height + 2);
    pitch = zero + static_cast<T>(t.pitch);
    if (padding != Padding::reflection) return;
    low_x = zero + static_cast<T>(cx.own.low);
    high_x = zero + static_cast<T>(cx.own.high);
    low_y = zero + static_cast<T>(cy.own.low);
    high_y = zero + static_cast<T>(cy.own.high);
  }

  STN_INLINE Deposits<T> at(Vec<T> x, Vec<T> fx, Vec<T> y, Vec<T> fy) const {
    const Vec<T> zero{};
    // Another copy's; and a coordinate that is not a number has no taps.
    const auto elsewhere =
        numbers ? (x < low_x) | (x >= high_x) | (y < low_y) | (y >= high_y) : (fx != fx) | (fy != fy);
    if (folds) {
      const bool align_corners = g.p.frame.align_corners;
      const auto cx = fold<padding>(x, fx, g.x.vector_length, align_corners);
      const auto cy = fold<padding>(y, fy, g.y.vector_length, align_corners);
      x = cx.whole;
      y = cy.whole;
      fx = cx.frac;
      fy = cy.frac;
      x -= left;
      y -= top;
    }
    x = clamp<T>(x, last_x);
    y = clamp<T>(y, last_y);
    if (!numbers || padding == Padding::reflection) {
      y = elsewhere ? zero : y;
      fx = elsewhere ? zero : fx;
      fy = elsewhere ? zero : fy;
    }
    const Vec<T> ex = 1 - fx, ey = 1 - fy;
    return {to_index<T>(y * pitch + x), ey * ex, ey * fx, fy * ex, fy * fx};
  }
};

// A row's part of its pixels' coordinates.
template <class T>
struct RowSteps {
  Vec<T> x, fx, y, fy;
};

// f(deposits, i, j): the vector of output pixels from (i, j) on may touch the tile. What lies behind the
// row's end is no pixel.
template <Padding padding, class T, class F>
STN_INLINE void for_any_deposits(const Geometry<T>& g, const TileFrame<T>& t, const F& f) {
  const Frame& frame = g.p.frame;
  const Locator<padding, false, T> locator(g, t, Copy{}, Copy{});
  for (int64_t i = 0; i < frame.out_height; ++i) {
    for (int64_t j = 0; j < frame.out_width; j += kBlock) {
      const int count = static_cast<int>(frame.out_width - j < kBlock ? frame.out_width - j : kBlock);
      for_any_coordinates<padding>(g.x, g.y, i, j, count, frame.align_corners,
                                   [&](int k, Vec<T> x, Vec<T> fx, Vec<T> y, Vec<T> fy)
                                       STN_LAMBDA { f(locator.at(x, fx, y, fy), i, j + k); });
    }
  }
}

// Those that touch one copy of the tile.
template <Padding padding, class T, class F>
STN_INLINE void for_copy_deposits(const Geometry<T>& g, const TileFrame<T>& t, const Copy& cx, const Copy& cy,
                                  const F& f) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const Frame& frame = g.p.frame;
  const AxisMap &mx = g.x.map, &my = g.y.map;
  const double det = mx.x * my.y - mx.y * my.x;
  const Span rows =
      touching(-my.x / det, mx.x / det, mx, my, cx.touching, cy.touching, mx.centre_i, frame.out_height);
  const Span columns =
      touching(my.y / det, -mx.y / det, mx, my, cx.touching, cy.touching, mx.centre_j, frame.out_width);
  const Crossing cross_x(mx, cx.touching), cross_y(my, cy.touching);
  const Locator<padding, true, T> locator(g, t, cx, cy);
  Steps<T, kSteps> row_x, row_y, column_x, column_y;
  for (int64_t top = rows.begin; top < rows.end; top += kSteps) {
    const int64_t bottom = top + kSteps < rows.end ? top + kSteps : rows.end;
    row_x.fill(mx.row(top), mx.y, bottom - top, locator.folds ? 0 : t.tile.left - 2);
    row_y.fill(my.row(top), my.y, bottom - top, locator.folds ? 0 : t.tile.top - 2);
    // In whole vectors, counted from a row's beginning: rows then differ little in their length.
    for (int64_t left = columns.begin / lanes * lanes; left < columns.end; left += kSteps) {
      const int64_t right = left + kSteps < columns.end ? left + kSteps : columns.end;
      const double from = static_cast<double>(left) - mx.centre_j;
      column_x.fill(mx.x * from, mx.x, padded<T>(right - left), 0);
      column_y.fill(my.x * from, my.x, padded<T>(right - left), 0);
      for (int64_t i = top; i < bottom; ++i) {
        double low = static_cast<double>(left), high = static_cast<double>(right - 1);
        if (right - left > kShortRow) {
          cross_x.narrow(mx.row(i), &low, &high);
          cross_y.narrow(my.row(i), &low, &high);
          if (!(low < high + 1)) continue;
        }
        const int64_t begin = static_cast<int64_t>(low) / lanes * lanes, end = static_cast<int64_t>(high) + 1;
        const RowSteps<T> row_steps{Vec<T>{} + row_x.whole[i - top], Vec<T>{} + row_x.frac[i - top],
                                    Vec<T>{} + row_y.whole[i - top], Vec<T>{} + row_y.frac[i - top]};
        for (int64_t j = begin; j < end; j += lanes) {
          Vec<T> x, fx, y, fy;
          add_steps(column_x, j - left, row_steps.x, row_steps.fx, &x, &fx);
          add_steps(column_y, j - left, row_steps.y, row_steps.fy, &y, &fy);
          f(locator.at(x, fx, y, fy), i, j);
        }
      }
    }
  }
}

template <Padding padding, class T, class F>
STN_INLINE void for_deposits(const Geometry<T>& g, const TileFrame<T>& t, const F& f) {
  if (!g.x.exact || !g.y.exact) return for_any_deposits<padding>(g, t, f);
  const Copies<T> across(g.p, g.x, t.tile.left, t.tile.width), down(g.p, g.y, t.tile.top, t.tile.height);
  // More copies than are worth looking for: all pixels are tried.
  if (across.count_copies() > kManyCopies || down.count_copies() > kManyCopies)
    return for_any_deposits<padding>(g, t, f);
  for (int64_t y = down.begin; y < down.end; ++y) {
    for (int64_t x = across.begin; x < across.end; ++x)
      for_copy_deposits<padding>(g, t, across.at(x), down.at(y), f);
  }
}

// f(deposits, map, i, j), of all readers.
template <class T, class F>
STN_INLINE void for_deposits(const Problem<T>& p, const Readers& readers, const TileFrame<T>& t, const F& f) {
  for (const int64_t* n = readers.begin; n < readers.end; ++n) {
    const Geometry<T> g(p, *n, 0);
    const auto of_map = [&](const Deposits<T>& d, int64_t i, int64_t j) STN_LAMBDA { f(d, *n, i, j); };
    with_padding(p.padding, [&](auto padding) STN_LAMBDA { for_deposits<padding.value>(g, t, of_map); });
  }
}

// ---- planes ----

// Output pixels that wait to be added. Many at a time: a vector that has just been written is slow to be read
// in parts.
template <int channels, class T>
struct Queue {
  static constexpr int capacity = 256;
  int count = 0;
  alignas(64) int32_t cell[capacity];
  alignas(64) T weight[4 * capacity];  // as store_quads leaves them
  alignas(64) T grad[channels][capacity];
};

// To add to four pixels in memory is slow; so the four products go, as one vector, into their cell, and each
// pixel then collects from the four cells that it belongs to. The tile's first pixel lies where vectors are
// aligned: two places before a row's cells there is nothing.
template <int channels, class T>
struct QuadCells : TileFrame<T> {
  const Images<T>& to;
  T* out;  // the tile's first pixel
  T* cells;
  int64_t plane;  // elements of a channel

  STN_INLINE QuadCells(const Tile& t, const Images<T>& images, T* first, T* scratch)
      : TileFrame<T>(t, (t.width + 8) / 4 * 4), to(images), out(first), cells(scratch + 8) {
    plane = 4 * this->pitch * this->rows();
  }

  STN_INLINE void begin() const {}  // all cells are 0, as `collect` leaves them

  STN_INLINE void add(const Queue<channels, T>& q) const {
    typedef typename Quad<T>::V V;
    constexpr int lanes = Simd<T>::lanes;
    for (int k = 0; k < q.count; k += lanes) {
#pragma GCC unroll 16
      for (int lane = 0; lane < lanes; ++lane) {
        const V weight = load<V>(q.weight + 4 * k + quad_at<T>(lane));
        T* cell = cells + 4 * static_cast<int64_t>(q.cell[k + lane]);
#pragma GCC unroll 4
        for (int c = 0; c < channels; ++c) {
          store(cell + c * plane, load<V>(cell + c * plane) + q.grad[c][k + lane] * weight);
        }
      }
    }
  }

  STN_INLINE void collect(bool streams) const {
    const int64_t width = this->tile.width;
    const bool direct = to.pixel == 1 && !streams;
    alignas(64) T spare[kTile];
    for (int c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < this->tile.height; ++y) {
        const T* here = cells + c * plane + 4 * ((y + 2) * this->pitch + 2);
        T* row = out + c * to.channel + y * to.row;
        collect_row<T>(here, here - 4 * this->pitch, direct ? row : spare, width);
        if (!direct) put_row(spare, width, to.pixel, row);
        clear_row(c, y + 1);  // while it is in the cache
      }
      clear_row(c, 0);
      clear_row(c, this->tile.height + 1);
      clear_row(c, this->tile.height + 2);
    }
  }

  STN_INLINE void clear_row(int c, int64_t y) const {
    store_zeros(cells + c * plane + 4 * (y * this->pitch - 2), 4 * this->pitch);
  }

  // Streamed where pixels lie side by side.
  static STN_INLINE void put_row(const T* from, int64_t width, int64_t pixel, T* to) {
    constexpr int64_t lanes = Simd<T>::lanes;
    int64_t x = 0;
    for (; pixel == 1 && x + lanes <= width; x += lanes) stream(to + x, load<Vec<T>>(from + x));
    for (; x < width; ++x) to[x * pixel] = from[x];
  }
};

// For few output pixels: to the tile itself.
template <int channels, class T>
struct SparseCells : TileFrame<T> {
  const Images<T>& to;
  T* out;

  STN_INLINE SparseCells(const Tile& t, const Images<T>& images, T* first, T*)
      : TileFrame<T>(t, t.width + 3), to(images), out(first) {}

  STN_INLINE void begin() const {
    for (int c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < this->tile.height; ++y) {
        T* row = out + c * to.channel + y * to.row;
        if (to.pixel == 1) {
          __builtin_memset(row, 0, sizeof(T) * static_cast<size_t>(this->tile.width));
        } else {
          for (int64_t x = 0; x < this->tile.width; ++x) row[x * to.pixel] = 0;
        }
      }
    }
  }

  STN_INLINE void add(const Queue<channels, T>& q) const {
    for (int k = 0; k < q.count; ++k) {
      const T* weight = q.weight + quad_at<T>(k);
      const int64_t cell_y = q.cell[k] / this->pitch, cell_x = q.cell[k] % this->pitch;
      for (int tap = 0; tap < 4; ++tap) {
        const int64_t y = cell_y - 2 + (tap >> 1), x = cell_x - 2 + (tap & 1);
        if (y < 0 || y >= this->tile.height || x < 0 || x >= this->tile.width) continue;
        T* pixel = out + y * to.row + x * to.pixel;
        for (int c = 0; c < channels; ++c) pixel[c * to.channel] += q.grad[c][k] * weight[tap];
      }
    }
  }

  STN_INLINE void collect(bool) const {}
};

// source: what for_deposits takes: the problem itself, or any map's (warp_kernels.h).
template <template <int, class> class Cells, int channels, class T, class Source>
STN_INLINE void adjoint_to(const Problem<T>& p, const Source& source, int64_t image, const Readers& readers,
                           int64_t c, const Tile& tile, T* scratch) {
  const Images<T>& to = p.grad_input;
  T* first = to.data + image * to.batch + c * to.channel + tile.top * to.row + tile.left * to.pixel;
  const Cells<channels, T> cells(tile, to, first, scratch);
  cells.begin();
  Queue<channels, T> queue;
  const auto enqueue = [&](const Deposits<T>& d, int64_t n, int64_t i, int64_t j) STN_LAMBDA {
    const T* from = p.grad.data + n * p.grad.batch + c * p.grad.channel + i * p.grad.row + j * p.grad.pixel;
    store(queue.cell + queue.count, d.cell);
    store_quads<T>(queue.weight + 4 * queue.count, d.w00, d.w01, d.w10, d.w11);
    for (int k = 0; k < channels; ++k) {
      store(queue.grad[k] + queue.count,
            load_strided<T>(from + k * p.grad.channel, p.grad.pixel, p.frame.out_width - j));
    }
    queue.count += Simd<T>::lanes;
    if (queue.count < queue.capacity) return;
    cells.add(queue);
    queue.count = 0;
  };
  for_deposits(source, readers, cells, enqueue);
  cells.add(queue);
  cells.collect(p.streams);
  if (p.streams) end_streams();
}

template <int channels, class T, class Source>
void adjoint_channels(const Problem<T>& p, const Source& source, int64_t image, const Readers& readers,
                      int64_t c, const Tile& tile, T* scratch) {
  if (is_sparse(p.frame)) {
    adjoint_to<SparseCells, channels>(p, source, image, readers, c, tile, scratch);
  } else {
    adjoint_to<QuadCells, channels>(p, source, image, readers, c, tile, scratch);
  }
}

// Up to kQuadChannels channels from c on, of one tile.
template <class T, class Source>
STN_INLINE void adjoint_quads(const Problem<T>& p, const Source& source, int64_t image,
                              const Readers& readers, int64_t c, int64_t channels, const Tile& tile,
                              T* scratch) {
  static_assert(kQuadChannels == 4, "one case each");
  switch (channels) {
    case 1:
      return adjoint_channels<1>(p, source, image, readers, c, tile, scratch);
    case 2:
      return adjoint_channels<2>(p, source, image, readers, c, tile, scratch);
    case 3:
      return adjoint_channels<3>(p, source, image, readers, c, tile, scratch);
    default:
      return adjoint_channels<4>(p, source, image, readers, c, tile, scratch);
  }
}

template <class T>
void adjoint(const Problem<T>& p, int64_t image, const Readers& readers, int64_t c, int64_t channels,
             const Tile& tile, T* scratch) {
  adjoint_quads(p, p, image, readers, c, channels, tile, scratch);
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
