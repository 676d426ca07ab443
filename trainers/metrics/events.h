// What TensorBoard shows of a run. Events are an observer: what cannot be written (a full disk) is
// said once and left out, and training goes on.
//
// LOCAL; only rank 0 should have one. THREADS: one. Nothing is thrown for what a disk can do.
//   Events events("runs/cats", counters.step);
//   events.scalars(counters.step, {{"train/loss", report.loss}});
//   events.picture(counters.step, "samples", grid);
#pragma once
#include "formats/picture.h"
#include "formats/tensorboard.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace trestle::trainers {

/// Steps are counted as in the names of checkpoints and pictures: `done` steps are behind. The line
/// of metrics.jsonl with "step": n is at n + 1 here.
class Events {
 public:
  /// A file is made with the first event. TensorBoard then drops what earlier files of the folder
  /// say of later steps than `done`, where the run starts or goes on.
  Events(std::filesystem::path folder, std::int64_t done);

  void scalars(std::int64_t done, const std::map<std::string, double>& values);
  void picture(std::int64_t done, std::string_view tag, const formats::Picture& picture);

 private:
  void observe(const std::function<void(formats::EventWriter&)>& write);

  std::filesystem::path folder_;
  std::int64_t first_step_;
  std::optional<formats::EventWriter> writer_;
  bool warned_ = false;
};

}  // namespace trestle::trainers
