// A tile's way through all three primitives: which path it takes, and the loops over its channels. Included
// by level sources only; see problem.h.
#pragma once

#include "nearest.h"

namespace stn::cpu {
namespace STN_LEVEL {

// What tiles are worked on with.
template <class T>
struct Workspace {
  static constexpr int64_t lanes = Simd<T>::lanes,
                           planes = kFew * 4 * (kWindow + kWindowColumns + 8 + 2 * Cells<T>::margin) + 64,
                           groups = (kGroupWindow + lanes) * lanes;
  alignas(64) T cells[planes > groups ? planes : groups];  // zeros, whenever no tile is being worked on
  Located<T> at;
  PlaneWindows<T, kFew> windows;
  PlaneWindows<int32_t, 1> words;
  GroupWindow<T> group;
  Results<T> results;
  SlopeSums<T> slopes;
  alignas(64) int64_t offset[kTilePixels + kBlock];
  alignas(64) T line[kLine];
  const char* held;  // the image whose whole window `group` holds, within a task
  bool spread;       // whether `cells` hold gradients of a whole window
  bool in_words;     // whether channels are sampled from windows of words, but for vectors of channels
};

// ---- how a tile is worked on ----

enum class Way { rows, windows, outside };

struct Plan {
  Window window;
  Division division;
  bool in_place;  // vectors of channels, of the images themselves
  bool whole;     // the window holds the whole image, for all its tiles
};

// A window that all pixels of a small image lie in, whatever the tile.
STN_INLINE bool find_whole(const Problem& p, Window* w) {
  if (repeats(p.padding)) return false;
  const Window whole = window_of(Range{-2, p.in[0]}, Range{-2, p.in[1]});
  if (!fits_groups(whole)) return false;
  *w = whole;
  return true;
}

STN_INLINE bool is_outside(const Problem& p, const Window& w) {
  return p.padding == Padding::zeros &&
         (w.top >= p.in[1] || w.left >= p.in[0] || w.top + w.rows <= 0 || w.left + w.columns <= 0);
}

// Chooses for `channels` channels of pixels that lie in a window, whose pitch may change. source: the image
// that is read, or null; to: where its gradient is added, or null.
template <class T>
STN_INLINE Way choose(const Problem& p, const Rows<T>& as, const OutTile& t, int64_t channels,
                      const Source<T>* source, const Accumulator<T>* to, Plan* plan) {
  Window& w = plan->window;
  if (is_outside(p, w)) return Way::outside;
  if (!fits(t, w)) return Way::rows;
  plan->division = divide<T>(source ? p.input : p.grad, channels, fits_groups(w));
  if (to && to->axis[0] > 1) plan->division = {channels, 1};  // added in vectors of channels alone
  plan->in_place = plan->whole = false;
  if (plan->division.grouped == 0) return Way::windows;
  int64_t pitch = source ? place_pitch(as, channels, source->stride, source->pixel, source->row) : 0;
  if (to) {
    const bool whole = w.top >= to->begin && w.top + w.rows <= to->end;
    const int64_t own = whole ? place_pitch(as, channels, to->channel, to->axis[0], to->axis[1]) : 0;
    pitch = !source || pitch == own ? own : 0;
  }
  if (pitch > 0 && w.left >= 0 && w.top >= 0 && w.left + w.columns <= p.in[0] && w.top + w.rows <= p.in[1] &&
      plan->division.grouped == channels && w.rows * pitch < 1 << 23) {
    plan->in_place = true;
    w.pitch = pitch;
    return Way::windows;
  }
  if (plan->division.grouped == channels && channels <= Simd<T>::lanes) plan->whole = find_whole(p, &w);
  return fits_groups(w) ? Way::windows : Way::rows;
}

STN_INLINE bool has_windows(const Problem& p) { return p.dims == 2 && !p.tangent && !p.nearest; }

// f(first channel, channels, group) for the vectors of channels; g(first channel, channels) for the planes.
template <class T, class F, class G>
STN_INLINE void for_channels(const Source<T>& source, const Plan& plan, int64_t channels, Workspace<T>* s,
                             const F& f, const G& g) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const Division& d = plan.division;
  const Window& w = plan.window;
  for (int64_t c = 0; c < d.grouped; c += lanes) {
    const int64_t count = d.grouped - c < lanes ? d.grouped - c : lanes;
    if (plan.in_place) {
      const T* first = reinterpret_cast<const T*>(source.at(c, w.top, w.left));
      f(c, count, Group<T>{first, source.pixel, source.row});
    } else if (plan.whole && s->held == source.data) {
      f(c, count, s->group.all(w));
    } else {
      f(c, count, s->group.copy(source.from(c), count, w));
      s->held = plan.whole ? source.data : nullptr;
    }
  }
  for (int64_t c = d.grouped; c < channels; c += d.few) {
    s->windows.copy(source.from(c), d.few, w);
    g(c, d.few);
  }
}

// ---- sample ----

template <class T>
__attribute__((noinline)) void fill_outside(const Problem& p, const Rows<T>& as, const Unit& u, int64_t map,
                                            const OutTile& t, Workspace<T>* s) {
  for (int64_t c = u.channel_begin; c < u.channel_end; ++c) {
    fill_line(s->line, 0, t.columns, static_cast<T>(p.fill_of(c)));
    const TileView<T> to(as, p.output, map, c, t);
    for (int64_t r = 0; r < t.rows; ++r) as.store(s->line, 0, 1, to.pixel, t.columns, to.at(0, r, 0));
  }
}

template <class T>
__attribute__((noinline)) void sample_tile(const Problem& p, const Rows<T>& as, const Unit& u, int64_t map,
                                           TileRadial<T>* radial, Workspace<T>* s) {
  const OutTile& t = radial->tile();
  const int64_t channels = u.channel_end - u.channel_begin;
  const Source<T> source(p, as, p.image_of(map), u.channel_begin);
  Plan plan;
  const Way way = !has_windows(p) ? Way::rows : with_map<T>(p, map, t, radial, [&](auto& m) STN_LAMBDA {
    if (!m.tame()) return Way::rows;
    plan.window = window_of(m.range(0), m.range(1));
    const Way chosen = choose<T>(p, as, t, channels, &source, nullptr, &plan);
    if (chosen == Way::windows) locate(p, m, plan.window, false, &s->at);
    return chosen;
  });
  if (way == Way::outside) return fill_outside(p, as, u, map, t, s);
  if (way == Way::rows) {
    with_shape(p, [&](auto dims, auto tangent)
                      STN_LAMBDA { sample_rows<dims.value, tangent.value != 0>(p, as, u, map, radial); });
    return;
  }
  const TileView<T> to(as, p.output, map, u.channel_begin, t);
  const int64_t in_words = s->in_words ? channels - plan.division.grouped : 0;
  for_channels(
      source, plan, channels - in_words, s,
      [&](int64_t c, int64_t count, const Group<T>& group)
          STN_LAMBDA { sample_groups(to.from(c), t, count, p.past_caches, group, s->at); },
      [&](int64_t c, int64_t few)
          STN_LAMBDA { sample_planes(to.from(c), t, few, p.past_caches, s->windows, s->at, &s->results); });
  if constexpr (sizeof(T) == sizeof(int32_t)) {
    for (int64_t c = channels - in_words; c < channels; c += kFew) {
      const int64_t few = channels - c < kFew ? channels - c : kFew;
      s->words.copy_rows(WordSource(source.from(c), few), 1, plan.window);
      sample_words(to.from(c), t, few, s->words.values[0], s->at);
    }
  }
}

// ---- nearest ----

// Two to four channels of bytes at once; whether the tile has a window.
STN_INLINE bool sample_bytes(const Problem& p, const Unit& u, int64_t map, TileRadial<float>* radial,
                             Workspace<float>* s) {
  const OutTile& t = radial->tile();
  const Rows<float> as = rows_of(Storage::u8, static_cast<float*>(nullptr));
  Window w;
  const bool found = with_map<float>(p, map, t, radial, [&](auto& m) STN_LAMBDA {
    if (!m.tame()) return false;
    w = window_of(m.range(0), m.range(1));
    if (!fits(t, w)) return false;
    m.locate(w.left, w.top, KeepNearestPlaces{w, s->at.tap});
    store(s->at.tap + t.rows * t.columns, IndexVec<float>{});
    return true;
  });
  const Source<float> source(p, as, p.image_of(map), u.channel_begin);
  const TileView<float> to(as, p.output, map, u.channel_begin, t);
  const int64_t channels = u.channel_end - u.channel_begin;
  for (int64_t c = 0; found && c < channels; c += kFew) {
    const int64_t few = channels - c < kFew ? channels - c : kFew;
    move_words(WordSource(source.from(c), few), to.from(c), t, w, s->at.tap, s->words.values[0]);
  }
  return found;
}

// Of elements of E.

template <class E, class T>
__attribute__((noinline)) void sample_nearest(const Problem& p, const Unit& u, int64_t map,
                                              TileRadial<T>* radial, Workspace<T>* s) {
  if constexpr (sizeof(E) == 1 && sizeof(T) == sizeof(float)) {
    const bool many = lie_side_by_side(p) && u.channel_end - u.channel_begin > kFew;
    if (p.dims == 2 && s->in_words && !many && sample_bytes(p, u, map, radial, s)) return;
  }
  const OutTile& t = radial->tile();
  const Plane plane(0, p.in[p.dims - 1], p.input.axis);
  // Of a large image a tile's rows lie in many pages: read one after the other they come sooner.
  const bool copies = p.input.axis[0] == 1 && p.in[0] * p.in[1] * int64_t{sizeof(E)} > kLargePlane;
  Window window;
  const bool copied = find_nearest(p, plane, map, radial, s->offset, copies ? &window : nullptr);
  for (Unit part = u; part.channel_begin < u.channel_end; part.channel_begin = part.channel_end) {
    const int64_t rest = u.channel_end - part.channel_begin;
    part.channel_end = part.channel_begin + (rest < Absent<E>::most ? rest : Absent<E>::most);
    const Absent<E> absent(p, part.channel_begin, part.channel_end);
    move_tile<E>(p, part, map, t, Offsets(s->offset, t.rows * t.columns), absent, copied ? &window : nullptr,
                 reinterpret_cast<E*>(s->windows.values[0]));
  }
}

template <class T>
STN_INLINE void sample_any(const Problem& p, const Rows<T>& as, const Unit& u, int64_t map,
                           TileRadial<T>* radial, Workspace<T>* s) {
  if (!p.nearest || p.tangent) return sample_tile(p, as, u, map, radial, s);
  switch (p.element) {
    case 1:
      return sample_nearest<uint8_t>(p, u, map, radial, s);
    case 2:
      return sample_nearest<uint16_t>(p, u, map, radial, s);
    case 4:
      return sample_nearest<uint32_t>(p, u, map, radial, s);
    default:
      return sample_nearest<uint64_t>(p, u, map, radial, s);
  }
}

// f(tile, its radial functions, map) over a unit's tiles of the output.
template <class T, class F>
STN_INLINE void for_tiles(const Problem& p, const Unit& u, T* values, const F& f) {
  const int64_t columns = tile_columns(p.out[0]), rows = tile_rows(p.out[0], tile_pixels<T>(p));
  for (int64_t i = u.row_begin; i < u.row_end; i += rows) {
    for (int64_t j = 0; j < p.out[0]; j += columns) {
      const OutTile t{i, j, u.row_end - i < rows ? u.row_end - i : rows,
                      p.out[0] - j < columns ? p.out[0] - j : columns};
      TileRadial<T> radial(p, t, values);
      for (int64_t map = u.map_begin; map < u.map_end; ++map) f(&radial, map);
    }
  }
}

template <class T>
void sample(const Problem& p, const Unit& u, void* workspace, T* values) {
  const Rows<T> as = rows_of(p.storage, static_cast<T*>(nullptr));
  auto* s = static_cast<Workspace<T>*>(workspace);
  s->held = nullptr;
  s->in_words = are_bytes(p);
  for_tiles(p, u, values,
            [&](TileRadial<T>* radial, int64_t map) STN_LAMBDA { sample_any(p, as, u, map, radial, s); });
  if (p.past_caches) end_streams();
}

// ---- theta's gradient ----

// From windows, where pixels have been located with slopes if `edges` says so.
template <class T, class M>
STN_INLINE void grad_theta_windows(const Problem& p, const Rows<T>& as, const Source<T>& source,
                                   const Plan& plan, int64_t channels, int64_t map, const M& m, bool edges,
                                   Workspace<T>* s, double* gradient) {
  const OutTile& t = m.tile();
  const TileView<T> grad(as, p.grad, map, source.channel, t);
  LinearSums<T> sums;
  for_channels(
      source, plan, channels, s,
      [&](int64_t c, int64_t count, const Group<T>& group) STN_LAMBDA {
        if constexpr (M::is_linear) {
          (edges ? sum_group<true, T> : sum_group<false, T>)(grad.from(c), t, count, group, s->at, &sums);
        } else {
          (edges ? keep_group<true, T> : keep_group<false, T>)(grad.from(c), t, count, group, s->at, c > 0,
                                                               &s->slopes);
        }
      },
      [&](int64_t c, int64_t few) STN_LAMBDA {
        if constexpr (M::is_linear) {
          (edges ? sum_planes<true, T> : sum_planes<false, T>)(grad.from(c), t, few, s->windows, s->at,
                                                               &s->slopes, &sums);
        } else {
          (edges ? keep_planes<true, T> : keep_planes<false, T>)(grad.from(c), t, few, s->windows, s->at,
                                                                 c > 0, &s->slopes);
        }
      });
  collect(p, m, sums, s->slopes, gradient);
}

// The input's gradient of located pixels.
template <class T>
__attribute__((noinline)) void add_windows(const Problem& p, const Rows<T>& as, const Plan& plan,
                                           int64_t channel_begin, int64_t channels, int64_t map,
                                           const OutTile& t, const Accumulator<T>& to, Workspace<T>* s) {
  constexpr int64_t lanes = Simd<T>::lanes;
  const Window& w = plan.window;
  const TileView<T> grad(as, p.grad, map, channel_begin, t);
  const auto part = [&](int64_t c) STN_LAMBDA {
    Accumulator<T> from = to;
    from.data += c * to.channel;
    return from;
  };
  if (plan.division.grouped > 0 && !plan.whole) to.prepare();
  for (int64_t c = 0; c < plan.division.grouped; c += lanes) {
    const int64_t count = plan.division.grouped - c < lanes ? plan.division.grouped - c : lanes;
    if (plan.in_place) {
      T* first = part(c).data + w.top * to.axis[1] + w.left * to.axis[0];
      spread_group(grad.from(c), t, count, s->at, GroupTarget<T>{first, to.axis[0], to.axis[1]});
      continue;
    }
    spread_group(grad.from(c), t, count, s->at, GroupTarget<T>{s->cells, lanes, w.pitch * lanes});
    s->spread = plan.whole;
    if (!plan.whole) collect_group(w, count, part(c), s->cells);
  }
  for (int64_t c = plan.division.grouped; c < channels;) {
    const int64_t few = channels - c < kFew ? channels - c : kFew;
    add_planes(grad.from(c), t, w, few, s->at, part(c), s->cells, &s->slopes, s->line);
    c += few;
  }
  if (plan.division.grouped < channels) to.hold(w);
}

// The wanted gradients of one map's tile. gradient: theta's, to be added to, or null; to: where the input's
// is added, or null.
template <class T>
__attribute__((noinline)) void backward_tile(const Problem& p, const Rows<T>& as, int64_t channel_begin,
                                             int64_t channel_end, int64_t map, TileRadial<T>* radial,
                                             Workspace<T>* s, double* gradient, const Accumulator<T>* to) {
  const OutTile& t = radial->tile();
  const int64_t channels = channel_end - channel_begin;
  const Source<T> source(p, as, p.image_of(map), channel_begin);
  Plan plan;
  const Way way = !has_windows(p) ? Way::rows : with_map<T>(p, map, t, radial, [&](auto& m) STN_LAMBDA {
    if (!m.tame()) return Way::rows;
    plan.window = window_of(m.range(0), m.range(1));
    const Way chosen = choose(p, as, t, channels, gradient ? &source : nullptr, to, &plan);
    if (chosen != Way::windows) return chosen;
    const bool edges = gradient && has_edges(p, plan.window);
    locate(p, m, plan.window, edges, &s->at);
    if (gradient) grad_theta_windows(p, as, source, plan, channels, map, m, edges, s, gradient);
    return chosen;
  });
  if (way == Way::outside) return;
  if (way == Way::windows) {
    if (to) add_windows(p, as, plan, channel_begin, channels, map, t, *to, s);
    return;
  }
  if (to) to->prepare();
  if (to && p.nearest && !p.tangent) {
    find_nearest<T>(p, Plane(to->begin, to->end, to->axis), map, radial, s->offset, nullptr);
    add_nearest(p, as, channel_begin, channel_end, map, t, s->offset, *to);
    return;
  }
  with_shape(p, [&](auto dims, auto tangent) STN_LAMBDA {
    constexpr bool along = tangent.value != 0;
    if (gradient)
      grad_theta_rows<dims.value, along>(p, as, channel_begin, channel_end, map, radial, gradient);
    if (to) grad_input_rows<dims.value, along>(p, as, channel_begin, channel_end, map, radial, *to);
  });
}

// gradients: theta's (maps, streams, basis) of the unit's maps.
template <class T>
void grad_theta(const Problem& p, const Unit& u, void* workspace, T* values, double* gradients) {
  const Rows<T> as = rows_of(p.storage, static_cast<T*>(nullptr));
  auto* s = static_cast<Workspace<T>*>(workspace);
  s->held = nullptr;
  for_tiles(p, u, values, [&](TileRadial<T>* radial, int64_t map) STN_LAMBDA {
    backward_tile<T>(p, as, u.channel_begin, u.channel_end, map, radial, s,
                     gradients + (map - u.map_begin) * p.streams() * p.basis, nullptr);
  });
}

}  // namespace STN_LEVEL
}  // namespace stn::cpu
