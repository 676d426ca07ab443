#include "trainers/metrics/progress.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/terminal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace trestle::trainers {
namespace {

constexpr int kBarWidth = 24;
constexpr auto kRedraw = std::chrono::milliseconds(100);

}  // namespace

std::string clock_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole >= 3600) {
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  }
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

Progress::Progress(std::string title, std::string unit, std::int64_t done, std::int64_t total,
                   std::int64_t line_every)
    : title_(std::move(title)),
      unit_(std::move(unit)),
      first_(done),
      total_(total),
      line_every_(std::max<std::int64_t>(1, line_every)),
      terminal_(stderr_is_terminal()),
      started_(std::chrono::steady_clock::now()) {}

Progress::~Progress() { close(); }

void Progress::update(std::int64_t done, const std::string& details) {
  const double elapsed = seconds_since(started_);
  const std::int64_t fresh = done - first_;
  const std::string left =
      fresh > 0 ? clock_text(elapsed / double(fresh) * double(total_ - done)) : "?";
  const std::string separator = details.empty() ? "" : " | ";
  if (done / line_every_ != last_line_ || done == total_) {
    last_line_ = done / line_every_;
    const auto line = fmt::format("{} {}/{} {}{}{} | {} left", title_, done, total_, unit_,
                                  separator, details, left);
    if (terminal_)
      log_to_file(line);
    else
      log_info("{}", line);
  }
  if (!terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (done != total_ && open_ && now - last_drawn_ < kRedraw) return;
  last_drawn_ = now;
  const auto filled = static_cast<int>(double(kBarWidth) * double(done) /
                                       double(std::max<std::int64_t>(1, total_)));
  std::string line =
      fmt::format("{} [{:#<{}}{:.<{}}] {}/{} {}{}{} | {} left", title_, "", filled, "",
                  kBarWidth - filled, done, total_, unit_, separator, details, left);
  line.resize(std::min(line.size(), terminal_columns() - 1));
  std::fprintf(stderr, "\r\x1b[K%s", line.c_str());
  std::fflush(stderr);
  open_ = true;
}

void Progress::close() {
  if (terminal_ && open_) std::fputs("\n", stderr);
  open_ = false;
}

}  // namespace trestle::trainers
