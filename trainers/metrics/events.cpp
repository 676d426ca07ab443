#include "trainers/metrics/events.h"

#include "base/error.h"
#include "base/log.h"

namespace trestle::trainers {

// Readers drop the START's own step, too, but pictures of step `done` are not made again.
Events::Events(std::filesystem::path folder, std::int64_t done)
    : folder_(std::move(folder)), first_step_(done + 1) {}

void Events::scalars(std::int64_t done, const std::map<std::string, double>& values) {
  observe([&](formats::EventWriter& writer) { writer.scalars(done, values); });
}

void Events::picture(std::int64_t done, std::string_view tag, const formats::Picture& picture) {
  observe([&](formats::EventWriter& writer) { writer.picture(done, tag, picture); });
}

void Events::observe(const std::function<void(formats::EventWriter&)>& write) {
  try {
    if (!writer_) writer_.emplace(folder_, first_step_);
    write(*writer_);
  } catch (const Error& error) {
    if (error.code() != ExitCode::environment) throw;
    if (!warned_) {
      log_warn("{} The run goes on; TensorBoard will not show what is missing.", error.what());
    }
    warned_ = true;
  }
}

}  // namespace trestle::trainers
