#include "launch/watch.h"

#include "base/deaf_thread.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/lease.h"
#include "launch/signals.h"
#include "trainers/metrics/restarts.h"

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <unistd.h>

namespace trestle::launch {
namespace {

namespace fs = std::filesystem;

void write_ring(const dist::FlightRing& ring, const fs::path& file) {
  std::string lines;
  ring.write_jsonl([&](std::string_view line) { lines += line; });
  write_file_atomic(file, lines, ExitCode::environment);
}

/// True for the one rank that wrote the file: linking fails where there is one already.
bool write_verdict_first(const dist::Verdict& verdict, const fs::path& file, int rank) {
  fs::path mine = file;
  mine += fmt::format(".{}", rank);
  write_file_durable(mine, dist::verdict_json(verdict), ExitCode::environment);
  const bool first = ::link(mine.c_str(), file.c_str()) == 0;
  ::unlink(mine.c_str());
  return first;
}

/// Each part has its own try: a full disk must not keep the sentence from the user.
void record(const dist::Verdict& verdict, bool decided_here, const dist::FlightRing& ring,
            const trainers::RunDirectory& directory, std::int64_t epoch, int rank) {
  const auto attempt = [](auto&& part) {
    try {
      part();
    } catch (const std::exception& error) {
      log_error("{}", error.what());
    }
  };
  bool tells = decided_here, ours = true;
  attempt([&] { ours = checkpoint::look_at_lease(directory.root()).epoch <= epoch; });
  if (decided_here && ours) {
    attempt([&] {
      tells = write_verdict_first(verdict, directory.verdict(), rank);
      if (tells) {
        trainers::record_end(directory.restarts(), {.epoch = epoch,
                                                    .step = verdict.step,
                                                    .code = verdict.code,
                                                    .reason = verdict.sentence});
      }
    });
  }
  if (ours) attempt([&] { write_ring(ring, directory.flight(rank)); });
  if (tells)
    log_error("{}", verdict.sentence);
  else
    log_to_file("error: " + verdict.sentence);
  log_exit_code(static_cast<int>(verdict.code));
}

void say_last_verdict(const fs::path& file) {
  constexpr std::uint64_t kLimitBytes = 1 << 20;
  if (!fs::exists(file)) return;
  const auto object = nlohmann::json::parse(
      read_text_file(file, kLimitBytes, ExitCode::environment), nullptr, /*exceptions=*/false);
  if (object.is_object() && object.contains("sentence") && object["sentence"].is_string())
    log_info("the last start in this directory ended so: {}",
             object["sentence"].get<std::string>());
  fs::remove(file);
}

}  // namespace

void log_exit_code(int code) { log_last_line(fmt::format("exit code {}", code)); }

RunWatch::~RunWatch() {
  over_ = true;
  if (on_request_.joinable()) on_request_.join();
  if (ring_) world_.observe(nullptr);
}

void RunWatch::begin(const trainers::WatchOptions& options, const trainers::RunDirectory& directory,
                     std::int64_t epoch) {
  if (!options.watchdog) return;
  log_debug(
      "watchdog: time-outs {} s at start-up, {} s in a step, {} s in a checkpoint, {} s of "
      "silence; "
      "{} flight entries; step times compared every {} steps",
      options.startup_timeout_s, options.step_timeout_s, options.checkpoint_timeout_s,
      options.silence_timeout_s, options.flight_entries, options.straggler_every);
  world_.agreed([&] {
    if (world_.is_root()) say_last_verdict(directory.verdict());
  });
  ring_ = std::make_unique<dist::FlightRing>(static_cast<std::size_t>(options.flight_entries),
                                             world_.size());
  world_.observe(ring_.get());
  const int rank = world_.rank();
  dist::WatchdogHooks hooks{
      .record =
          [ring = ring_.get(), directory, epoch, rank](const dist::Verdict& verdict,
                                                       bool decided_here) {
            record(verdict, decided_here, *ring, directory, epoch, rank);
          },
      // No destructor, no exit handler: they would wait for the threads that hang.
      .end = [](ExitCode code) { std::_Exit(static_cast<int>(code)); }};
  watchdog_ = std::make_unique<dist::Watchdog>(
      world_, *ring_,
      dist::WatchdogOptions{.limits = {.startup_s = options.startup_timeout_s,
                                       .step_s = options.step_timeout_s,
                                       .checkpoint_s = options.checkpoint_timeout_s},
                            .silence_s = options.silence_timeout_s},
      std::move(hooks));
  on_request_ = deaf_thread([this, file = directory.flight(rank)] {
    while (!over_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      if (!take_flight_request()) continue;
      try {
        write_ring(*ring_, file);
        log_info("flight ring: {}", file.string());
      } catch (const std::exception& error) {
        log_warn("{}", error.what());
      }
    }
  });
}

void RunWatch::goodbye() {
  if (watchdog_) watchdog_->goodbye();
}

void RunWatch::failed(ExitCode code, const std::string& sentence) {
  if (watchdog_ && world_.size() > 1) watchdog_->failed(code, sentence);
}

}  // namespace trestle::launch
