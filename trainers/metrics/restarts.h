// restarts.jsonl: a line when a run starts or goes on, and one when it ends, as far as it could
// still say so. An observer: what cannot be written is said and costs nothing else.
//
//   record_start(directory.restarts(), {.epoch = 3, .from_step = 120, ...});
//   record_end(directory.restarts(), {.epoch = 3, .step = 200, .code = ExitCode::preempted});
//   last_end(directory.restarts())      // "exit code 75 at step 200", "killed ..."
//
// LOCAL; one rank at a time. THREADS: any.
#pragma once
#include "base/error.h"

#include <cstdint>
#include <filesystem>
#include <string>

namespace trestle::trainers {

struct StartLine {
  std::int64_t epoch = 0;
  std::int64_t from_step = -1;  ///< of the checkpoint that it goes on from; -1: from none
  std::string host;             ///< of rank 0
  std::int64_t pid = 0;
  std::string job;           ///< Slurm's; empty outside
  std::int64_t requeue = 0;  ///< of the job
  std::int64_t world = 1;
  std::string hosts;  ///< of all ranks, each once
};

struct EndLine {
  std::int64_t epoch = 0;
  std::int64_t step = -1;  ///< steps done; -1: not known
  ExitCode code = ExitCode::done;
  std::string reason = {};  ///< empty for a run that is complete
};

void record_start(const std::filesystem::path& file, const StartLine& line);
void record_end(const std::filesystem::path& file, const EndLine& line);

/// How the last start ended, for people; empty where there was none.
std::string last_end(const std::filesystem::path& file);

}  // namespace trestle::trainers
