#include "trainers/metrics/recorder.h"

#include "base/error.h"
#include "base/log.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <unistd.h>

namespace trestle::trainers {
namespace {

/// Resident memory of this process, in bytes.
std::int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t pages = 0, resident = 0;
  statm >> pages >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

}  // namespace

Recorder::Recorder(const RunDirectory& directory, std::int64_t done, std::int64_t total,
                   std::int64_t restarts, const LogOptions& options)
    : restarts_(restarts),
      progress_("train", "steps", done, total, options.every),
      metrics_(directory.metrics()) {
  if (options.tensorboard) events_.emplace(directory.root(), done);
}

void Recorder::observe(const std::function<void()>& write) {
  try {
    write();
  } catch (const Error& error) {
    if (error.code() != ExitCode::environment) throw;
    // Once a run: on a full disk a shorter line may still fit between two that do not.
    if (!warned_) log_warn("{} The run goes on; what cannot be written is missing.", error.what());
    warned_ = true;
  }
}

void Recorder::step(const StepRecord& record) {
  std::map<std::string, double> further = record.metrics;
  for (const auto& [name, loss, grad_norm] : record.further) {
    further["loss/" + name] = loss;
    further["grad_norm/" + name] = grad_norm;
  }
  observe([&] {
    std::vector<formats::JsonField> fields{{"step", record.step},
                                           {"samples", record.samples},
                                           {"loss", record.loss},
                                           {"lr", record.learning_rate},
                                           {"grad_norm", record.grad_norm},
                                           {"samples_per_s", record.samples_per_s},
                                           {"step_ms", record.step_ms},
                                           {"data_wait_ms", record.data_wait_ms},
                                           {"checkpoint_wait_ms", record.checkpoint_wait_ms},
                                           {"rss_bytes", resident_bytes()},
                                           {"bad_samples", record.bad_samples},
                                           {"restarts", restarts_}};
    for (const auto& [key, value] : further) {
      TRESTLE_ASSERT(std::ranges::find(fields, key, &formats::JsonField::key) == fields.end(),
                     "a metric is called {}, as what stands in every line is", key);
      fields.push_back({key, value});
    }
    metrics_.append(std::span<const formats::JsonField>(fields));
  });
  if (events_) {
    std::map<std::string, double> values{{"train/loss", record.loss},
                                         {"train/lr", record.learning_rate},
                                         {"train/grad_norm", record.grad_norm},
                                         {"speed/samples_per_s", record.samples_per_s},
                                         {"speed/step_ms", record.step_ms},
                                         {"speed/data_wait_ms", record.data_wait_ms},
                                         {"speed/checkpoint_wait_ms", record.checkpoint_wait_ms}};
    for (const auto& [key, value] : further) values["train/" + key] = value;
    events_->scalars(record.step + 1, values);
  }
  progress_.update(record.step + 1,
                   fmt::format("loss {:.4f} | lr {:.2e} | {:.1f} samples/s", record.loss,
                               record.learning_rate, record.samples_per_s));
}

void Recorder::picture(std::int64_t done, const formats::Picture& grid) {
  if (events_) events_->picture(done, "samples", grid);
}

}  // namespace trestle::trainers
