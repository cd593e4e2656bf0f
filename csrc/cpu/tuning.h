// What has been tuned: each size with its unit and the measurement that fixed it, from HISTORY.md, on
// processors with first-level caches of 32 and 48 KB. Where no measurement is named, none told values apart.
#pragma once

#include <cstdint>

namespace stn::cpu {

// ---- tiles of the output ----

// Columns: a narrower output is one tile wide; wider ones are cut into so many. And pixels, at most. Tiles of
// 64 columns and 2,048 pixels took 1.28 ns a value on a grey image, these 0.94 (ImageNet 1.15 and 0.89): a
// window and the located pixels share a first-level cache. 3,200 pixels gain up to 10 % on 56 x 56 maps and
// lose 20 % on larger images.
constexpr int64_t kTileColumns = 64, kWideTileColumns = 48, kTilePixels = 1600;

// Bytes of radial functions over a tile that map after map reads, so that they stay in a first-level cache:
// spline digits 0.263 to 0.187 ms. A tile keeps so many pixels, at least.
constexpr int64_t kRadialBytes = 28 << 10, kRadialPixels = 256;

// Places along an axis at which far radial functions are summed, to be interpolated to float's rounding: with
// them a photograph takes 13.5 ms and not 22.2.
constexpr int kRadialNodes = 6;

// ---- windows of the input ----

// Places, and columns, at most: of planes, and of vectors of channels.
constexpr int64_t kWindow = 8192, kWindowColumns = 1024, kGroupWindow = 4096, kGroupColumns = 256;

// Places that a window may have for each pixel of the tile, and besides: where maps shrink more, pixels are
// read one by one.
constexpr int64_t kPlacesPerPixel = 8, kPlacesBesides = 1024;

// Channels that share a place or a cell, at most.
constexpr int64_t kFew = 4;

// Rows that are asked for before they are needed: a photograph 7.7 to 6.6 ms, its input's gradient 17.5 to
// 13.9. 4 rows take 6 to 12 % longer, 14 as long.
constexpr int64_t kRowsAhead = 8;

// Bytes of a plane from which on the nearest pixels are read from windows: a photograph 25 to 10 ms.
constexpr int64_t kLargePlane = 256 << 10;

// ---- results ----

// Bytes of a result from which on it is written past the caches: a photograph 14 to 7 ms.
constexpr int64_t kLargeResult = 8 << 20;

// Pixels whose gradients wait to be added together: digits 3.4 to 2.2 ns a value against one vector at a
// time.
constexpr int kQueued = 256;

// ---- tasks ----

constexpr int64_t kUnit = 1 << 14;    // output values that are worth a task of their own
constexpr int64_t kGrain = 1 << 15;   // and those that are worth waking a thread
constexpr int64_t kTask = 1 << 16;    // values of an image's gradient that are worth a task of their own
constexpr int64_t kStripes = 8;       // tasks that a gradient is cut into, where there are not as many images
constexpr int64_t kStripeRows = 64;   // of a stripe, at least: neighbors visit some of the same tiles
constexpr int64_t kStripeSlices = 8;  // of a volume's
constexpr int64_t kApart = 1 << 20;   // values of a stripe that is computed apart from where it is stored

// Maps, and images of a backward pass, that share what radial functions cost, at most: 32 maps gain over 16
// (HISTORY.md, with kRadialBytes).
constexpr int64_t kSharedMaps = 32, kSharedImages = 16;

}  // namespace stn::cpu
