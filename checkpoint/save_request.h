// What is to be saved as what. LOCAL, plain values.
#pragma once
#include "checkpoint/manifest.h"
#include "dist/communicator.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace trestle::checkpoint {

struct SaveRequest {
  std::filesystem::path folder;  ///< .../checkpoints, made if missing
  std::int64_t step = 0;
  std::string recipe_toml;  ///< resolved
  std::string recipe_hash;
  std::optional<TopologyRecord> topology = std::nullopt;
  bool index = false;      ///< with index.h5 (index_file.h)
  std::int64_t epoch = 0;  ///< how often the run directory has had another holder; 0: nobody counts
  /// This rank's fellows, which hold the same tensors and share the writing of them; null: all.
  const dist::Communicator* holders = nullptr;
  /// Rank 0's save thread, right before the rename: throws where this run may not publish any more.
  std::function<void()> before_publish = {};
  /// Rank 0's save thread, when the checkpoint is there: what is to be kept no more may go. What it
  /// throws is only said.
  std::function<void()> after_publish = {};
};

}  // namespace trestle::checkpoint
