// A thin plate spline's radial functions over a tile of the output. Included by level sources only; see
// kernels.h.
//
// At a distance from its control point a function is so smooth that over a small tile it is a polynomial, to
// float's rounding: of its values at kRadialNodes x kRadialNodes evenly spaced places. Far functions are
// summed there, and the sum is interpolated; only near ones are computed for each pixel.
#pragma once

#include "lines.h"
#include "radial.h"

namespace stn::cpu {
namespace STN_LEVEL {

// A polynomial's coefficients, a node's values or a row of either; the last ones are not used.
typedef double Nodes __attribute__((vector_size(64)));

// Coefficient p of the polynomial in [-1, 1] that is 1 at node i and 0 at the others: kInterpolation[i][p].
constexpr Nodes kInterpolation[kRadialNodes] = {
    {9 / 768., -9 / 768., -250 / 768., 250 / 768., 625 / 768., -625 / 768., 0, 0},
    {-75 / 768., 125 / 768., 1950 / 768., -3250 / 768., -1875 / 768., 3125 / 768., 0, 0},
    {450 / 768., -2250 / 768., -1700 / 768., 8500 / 768., 1250 / 768., -6250 / 768., 0, 0},
    {450 / 768., 2250 / 768., -1700 / 768., -8500 / 768., 1250 / 768., 6250 / 768., 0, 0},
    {-75 / 768., -125 / 768., 1950 / 768., 3250 / 768., -1875 / 768., -3125 / 768., 0, 0},
    {9 / 768., 9 / 768., -250 / 768., -250 / 768., 625 / 768., 625 / 768., 0, 0},
};

// A grid of nodes: its rows.
struct NodeGrid {
  Nodes row[kRadialNodes] = {};
};

// From values at nodes to coefficients: of y^p x^q, row[p][q].
STN_INLINE NodeGrid interpolated(const NodeGrid& values) {
  NodeGrid result;
  for (int i = 0; i < kRadialNodes; ++i) {
    Nodes by_x{};
    for (int j = 0; j < kRadialNodes; ++j) by_x += values.row[i][j] * kInterpolation[j];
    for (int p = 0; p < kRadialNodes; ++p) result.row[p] += kInterpolation[i][p] * by_x;
  }
  return result;
}

// The transpose: from derivatives by coefficients to those by the values.
STN_INLINE NodeGrid interpolated_back(const NodeGrid& by) {
  NodeGrid result;
  for (int i = 0; i < kRadialNodes; ++i) {
    Nodes by_x{};
    for (int p = 0; p < kRadialNodes; ++p) by_x += kInterpolation[i][p] * by.row[p];
    for (int j = 0; j < kRadialNodes; ++j) {
      const Nodes product = kInterpolation[j] * by_x;
      for (int q = 0; q < kRadialNodes; ++q) result.row[i][j] += product[q];
    }
  }
  return result;
}

template <class T>
class TileRadial {
 public:
  TileRadial() = default;

  // values: room for radial_values(w).
  STN_INLINE TileRadial(const Problem& w, const OutTile& tile, T* values)
      : w_(&w), t_(tile), values_(values), nodes_(values + w.radial() * kRadialStride), smooth_(false) {
    if (w.radial() == 0) return;
    double half[2];
    for (int d = 0; d < 2; ++d) {
      const int64_t first = d == 0 ? t_.left : t_.top, count = d == 0 ? t_.columns : t_.rows;
      const double begin = normalized(first, w.out[d], w.align_corners),
                   end = normalized(first + count - 1, w.out[d], w.align_corners);
      center_[d] = (begin + end) / 2;
      half[d] = (end - begin) / 2;
      // What counts a tile's pixels from -1 to 1.
      middle_[d] = static_cast<double>(count - 1) / 2;
      inverse_[d] = count > 1 ? 1 / middle_[d] : 0;
    }
    const double size = half[0] > half[1] ? half[0] : half[1];
    // Beyond this distance the polynomials' error, some 0.14 size^7 / distance^5, is below 3e-7.
    constexpr double widest = 0.1;
    smooth_ = sizeof(T) == 4 && size < widest;
    if (smooth_) {
      const double near = 13.6 * __builtin_pow(size, 1.4);
      near_squared_ = near * near;
    }
    fill();
  }

  STN_INLINE const OutTile& tile() const { return t_; }

  // All functions' values: function f at pixel k, row by row, is values[f * kRadialStride + k].
  STN_INLINE const T* all() {
    if (smooth_) {
      smooth_ = false;
      fill();
    }
    return values_;
  }

  STN_INLINE bool is_near(int64_t f) const {
    if (!smooth_) return true;
    const double x = w_->points[2 * f] - center_[0], y = w_->points[2 * f + 1] - center_[1];
    return !(x * x + y * y >= near_squared_);
  }

  // sums[d] = the functions' sums, pixels, through a map.
  STN_INLINE void sum(const MapLines& m, T* const* sums) const {
    if (smooth_) sum_far(m, sums);
    sum_near(m, sums);
  }

  // gradient[d * basis + f] += the sum of by[d] * function f over the tile's pixels, of which by[d] is the
  // derivative through a map.
  STN_INLINE void add_gradient(const MapLines& m, const T* const* by, double* gradient) const {
    const int64_t pixels = t_.rows * t_.columns;
    const T* values = values_;
    for (int64_t f = 0; f < w_->radial(); ++f) {
      if (!is_near(f)) continue;
      Vec<T> sum[2] = {};
      for (int64_t k = 0; k < pixels; k += Simd<T>::lanes) {
        const auto v = load_some<Vec<T>>(values + k, pixels - k);
        for (int d = 0; d < 2; ++d) sum[d] += v * load_some<Vec<T>>(by[d] + k, pixels - k);
      }
      for (int d = 0; d < 2; ++d) {
        gradient[d * w_->basis + f] += m.scale[d] * static_cast<double>(sum_lanes<T>(sum[d]));
      }
      values += kRadialStride;
    }
    if (smooth_) add_far_gradient(m, by, gradient);
  }

 private:
  const Problem* w_;
  OutTile t_;
  T *values_, *nodes_;
  bool smooth_;
  double near_squared_, center_[2], middle_[2], inverse_[2];

  // The near functions' values, one behind the other; the far ones' at the nodes.
  __attribute__((noinline)) void fill() {
    const Problem& w = *w_;
    const double x = normalized(t_.left, w.out[0], w.align_corners),
                 step_x = normalized_step(w.out[0], w.align_corners),
                 y = normalized(t_.top, w.out[1], w.align_corners),
                 step_y = normalized_step(w.out[1], w.align_corners);
    T* values = values_;
    for (int64_t f = 0; f < w.radial(); ++f) {
      if (!is_near(f)) continue;
      for (int64_t r = 0; r < t_.rows; ++r) {
        fill_radial<T>(x, step_x, y + step_y * static_cast<double>(r), w.points + 2 * f, t_.columns,
                       values + r * t_.columns);
      }
      // sum_near reads on; whatever lay there may be slow to multiply.
      __builtin_memset(values + t_.rows * t_.columns, 0, sizeof(T) * kWalk);
      values += kRadialStride;
    }
    if (smooth_) fill_nodes(x, 2 * middle_[0] * step_x, y, 2 * middle_[1] * step_y);
  }

  // The far functions' values, of a tile that begins at (x, y).
  STN_INLINE void fill_nodes(double x, double width, double y, double height) {
    alignas(64) T right[kNodeStride] = {}, down[kNodeStride] = {};
    for (int k = 0; k < kRadialNodes * kRadialNodes; ++k) {
      right[k] = static_cast<T>(width / (kRadialNodes - 1) * (k % kRadialNodes));
      down[k] = static_cast<T>(height / (kRadialNodes - 1) * (k / kRadialNodes));
    }
    for (int64_t f = 0; f < w_->radial(); ++f) {
      if (is_near(f)) continue;
      const T dx = static_cast<T>(x - w_->points[2 * f]), dy = static_cast<T>(y - w_->points[2 * f + 1]);
      for (int k = 0; k < kNodeStride; k += Simd<T>::lanes) {
        store(nodes_ + f * kNodeStride + k,
              radial_of<T>(dx + load<Vec<T>>(right + k), dy + load<Vec<T>>(down + k)));
      }
    }
  }

  STN_INLINE Nodes node_values(int64_t f, int i) const {
    typedef T Row __attribute__((vector_size(8 * sizeof(T))));
    return __builtin_convertvector(load<Row>(nodes_ + f * kNodeStride + i * kRadialNodes), Nodes);
  }

  // A vector of pixels' places in their row, from -1 to 1.
  STN_INLINE Vec<T> along_row(int64_t k) const {
    return (lane_numbers<T>() + static_cast<T>(static_cast<double>(k) - middle_[0])) *
           static_cast<T>(inverse_[0]);
  }
  STN_INLINE double down(int64_t r) const { return (static_cast<double>(r) - middle_[1]) * inverse_[1]; }

  __attribute__((noinline)) void sum_far(const MapLines& m, T* const* sums) const {
    for (int d = 0; d < 2; ++d) {
      NodeGrid values;
      for (int64_t f = 0; f < w_->radial(); ++f) {
        if (is_near(f)) continue;
        for (int i = 0; i < kRadialNodes; ++i) {
          values.row[i] += m.value.radial[d][f] * m.scale[d] * node_values(f, i);
        }
      }
      const NodeGrid polynomial = interpolated(values);
      for (int64_t r = 0; r < t_.rows; ++r) {
        const double y = down(r);
        Nodes by_x{};
        for (int p = kRadialNodes - 1; p >= 0; --p) by_x = by_x * y + polynomial.row[p];
        for (int64_t k = 0; k < t_.columns; k += Simd<T>::lanes) {
          const Vec<T> x = along_row(k);
          Vec<T> sum{};
          for (int q = kRadialNodes - 1; q >= 0; --q) sum = sum * x + static_cast<T>(by_x[q]);
          store(sums[d] + r * t_.columns + k, sum);
        }
      }
    }
  }

  __attribute__((noinline)) void sum_near(const MapLines& m, T* const* sums) const {
    constexpr int vectors = 4, functions = 64;  // at a time
    constexpr int64_t lanes = Simd<T>::lanes, step = vectors * lanes;
    const int64_t pixels = t_.rows * t_.columns;
    alignas(64) T factor[2][functions];
    const T* values = values_;
    bool more = smooth_;  // than nothing is there already
    for (int64_t first = 0; first == 0 || first < w_->radial(); first += functions) {
      int64_t count = 0;
      for (int64_t f = first; f < w_->radial() && f < first + functions; ++f) {
        if (!is_near(f)) continue;
        for (int d = 0; d < 2; ++d) factor[d][count] = static_cast<T>(m.value.radial[d][f] * m.scale[d]);
        ++count;
      }
      if (count == 0 && more) continue;
      for (int64_t k = 0; k < pixels; k += step) {
        Vec<T> sum[2][vectors] = {};
        const T* from = values + k;
        for (int64_t f = 0; f < count; ++f, from += kRadialStride) {
          for (int v = 0; v < vectors; ++v) {
            const Vec<T> value = in_register(load<Vec<T>>(from + v * lanes));
            sum[0][v] += factor[0][f] * value;
            sum[1][v] += factor[1][f] * value;
          }
        }
        for (int d = 0; d < 2; ++d) {
          for (int v = 0; v < vectors; ++v) {
            T* to = sums[d] + k + v * lanes;
            store(to, more ? load<Vec<T>>(to) + sum[d][v] : sum[d][v]);
          }
        }
      }
      values += count * kRadialStride;
      more = true;
    }
  }

  __attribute__((noinline)) void add_far_gradient(const MapLines& m, const T* const* by,
                                                  double* gradient) const {
    for (int d = 0; d < 2; ++d) {
      NodeGrid by_polynomial;
      for (int64_t r = 0; r < t_.rows; ++r) {
        Vec<T> power_sums[kRadialNodes] = {};
        for (int64_t k = 0; k < t_.columns; k += Simd<T>::lanes) {
          const Vec<T> x = along_row(k);
          auto v = load_some<Vec<T>>(by[d] + r * t_.columns + k, t_.columns - k);
          for (int q = 0; q < kRadialNodes; ++q, v *= x) power_sums[q] += v;
        }
        alignas(64) T sums[8] = {};
        sum_lanes_of_four<T>(power_sums, sums);
        for (int q = 4; q < kRadialNodes; ++q) sums[q] = sum_lanes<T>(power_sums[q]);
        typedef T Row __attribute__((vector_size(8 * sizeof(T))));
        Nodes by_x = __builtin_convertvector(load<Row>(sums), Nodes);
        for (int p = 0; p < kRadialNodes; ++p, by_x *= down(r)) by_polynomial.row[p] += by_x;
      }
      const NodeGrid by_values = interpolated_back(by_polynomial);
      for (int64_t f = 0; f < w_->radial(); ++f) {
        if (is_near(f)) continue;
        Nodes sum{};
        for (int i = 0; i < kRadialNodes; ++i) sum += by_values.row[i] * node_values(f, i);
        for (int q = 0; q < kRadialNodes; ++q) gradient[d * w_->basis + f] += m.scale[d] * sum[q];
      }
    }
  }
};

}  // namespace STN_LEVEL
}  // namespace stn::cpu
