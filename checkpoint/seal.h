// The end of a save, on rank 0: the manifest of all ranks' shards, then the name.
//
//   Seal seal({.temporary = ..., .checkpoint = .../step-00000100, ...});
//   save thread: seal.run();
//   main thread: seal.ending().wait_until(deadline);
//
// Up to the rename nothing that was there has changed. LOCAL. THREADS: run() on the save thread,
// the rest on the main thread. ERRORS end in ending().why(); ExitCode::checkpoint.
#pragma once
#include "checkpoint/ending.h"
#include "checkpoint/manifest.h"

#include <atomic>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <mutex>

namespace trestle::checkpoint {

struct SealRequest {
  std::filesystem::path temporary, checkpoint;
  bool index = false;  ///< with index.h5
  Manifest header;     ///< of the whole checkpoint: all but values, files and tensors
  std::function<void()> before_publish = {}, after_publish = {};  ///< as SaveRequest has them
};

class Seal {
 public:
  explicit Seal(SealRequest request);

  void run() noexcept;
  const Ending& ending() const { return ending_; }
  /// It fails for this reason, unless it has ended or has begun to rename: then it returns false.
  bool cancel(const std::exception_ptr& why);
  /// It is taken to have failed, whatever may still become of it.
  void give_up(const std::exception_ptr& why) { ending_.failed(why); }
  /// Once it is done: of all files; and how long the slowest rank's shard and this took.
  std::uint64_t bytes() const { return bytes_; }
  double save_s() const { return save_s_; }

 private:
  /// Returns how long the slowest rank's shard took, in seconds.
  double write_manifest();
  void publish();
  bool begin_to_rename();

  SealRequest request_;
  Ending ending_;
  std::mutex mutex_;
  bool renaming_ = false;
  bool renamed_ = false;  ///< the save thread's alone
  std::atomic<std::uint64_t> bytes_ = 0;
  std::atomic<double> save_s_ = 0;
};

}  // namespace trestle::checkpoint
