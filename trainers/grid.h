// Picture grids of held-out samples, made by all ranks together.
#pragma once
#include "base/stop.h"
#include "dist/mesh.h"
#include "trainers/task.h"

#include <filesystem>

namespace trestle::trainers {

/// COLLECTIVE. Each rank draws its share of `pictures` held-out samples, evenly spread over the
/// data set (each branch all of them, one branch after the other); rank 0 arranges them and writes
/// one PNG. Any number of ranks gives the same picture (to rounding), which rank 0 returns. Errors
/// on any rank, a requested stop included, are thrown on all.
formats::Picture write_grid(Task& task, const Draws& draws, const dist::Mesh& mesh,
                            std::int64_t pictures, const std::filesystem::path& file,
                            StopToken stop = {});

/// Tiles pictures of one size, about as high as wide, on white with a small gap.
formats::Picture tile(const std::vector<formats::Picture>& pictures);

}  // namespace trestle::trainers
