// What was chosen for speed, and why.
#pragma once

namespace stn::cuda {

constexpr int kWarp = 32;
constexpr int kMostWarps = 8;  // of a block: 256 threads, of which four blocks with 64 registers each fit
constexpr int kMostThreads = kMostWarps * kWarp;

// A warp's pixels lie side by side in so many columns: of a turned map, 16 x 2 touch 9 to 17 lines of the
// input where 32 x 1 touch 32, and their stores still fill sectors.
constexpr int kWarpColumns = 16, kWarpRows = kWarp / kWarpColumns;

// Blocks that fit a multiprocessor together, which bounds their registers: to 128 of double, to 64 of float
// or, of what takes more, to 80.
template <bool is_double, bool large>
constexpr int kResident = is_double ? 2
                          : large   ? 3
                                    : 4;

// Pixels of a thread that it works on as a band. Their loads are issued before the first of them is used: 16
// of images, with the pixels' weights and pointers in 64 registers. Where a pixel takes more (volumes,
// splines, the sums of theta's gradient), half of them or one.
constexpr int kTogether = 4;
template <bool large>
constexpr int kInSample = large ? kTogether / 2 : kTogether;
template <bool large>
constexpr int kInGradTheta = large ? kTogether / 4 : kTogether / 2;
constexpr int kBandRows = kWarpRows * kTogether;  // rows that a warp works on at a time

// Such bands that a warp works through, where there are rows for it: a block's coordinates are planned once
// for 32 x 64 pixels, and of large images, that have this many such tiles, for 32 x 128.
constexpr int kBands = 2;
constexpr long long kManyTiles = 8192;

constexpr int kLeastChannels = 8;          // of a block, where channels are divided over blocks
constexpr long long kWantedBlocks = 8192;  // enough to fill any GPU; more only where the work gives them

// Of a launch whose blocks loop: a few for each of a GPU's multiprocessors.
constexpr long long kLoopBlocks = 2048;

// Control points of a spline that are kept in shared memory at a time.
constexpr int kStaged = 64;

// Bytes of neighboring channels that a lane reads at once, where they are aligned, and that the lanes of a
// pixel read together: a line, or else a sector.
constexpr int kVector = 16, kLine = 128, kSector = 32;

}  // namespace stn::cuda
