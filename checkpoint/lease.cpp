#include "checkpoint/lease.h"

#include "base/clock.h"
#include "base/deaf_thread.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fcntl.h>
#include <random>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kClaimPrefix = ".lease-";
constexpr std::string_view kDraftPrefix = ".lease-draft-";
constexpr std::size_t kLimitBytes = 64 << 10;

std::string reason(int error) { return std::generic_category().message(error); }

[[noreturn]] void fail_to_write(const fs::path& path, int error) {
  fail(ExitCode::environment,
       "{} could not be written ({}). Check the rights and the free space of its folder.",
       path.string(), reason(error));
}

fs::path claim_file(const fs::path& folder, std::int64_t epoch) {
  return folder / fmt::format("{}{:08}", kClaimPrefix, epoch);
}

/// Of ".lease-00000012"; nothing for other names.
std::optional<std::int64_t> epoch_of(const std::string& name) {
  if (!name.starts_with(kClaimPrefix)) return std::nullopt;
  std::int64_t epoch = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kClaimPrefix.size(), end, epoch);
  constexpr std::int64_t kMost = 1'000'000'000'000;
  if (error != std::errc() || stop != end || epoch < 1 || epoch > kMost) return std::nullopt;
  return epoch;
}

/// The file's text; nothing if there is no such file. Another host may replace it at any time.
std::optional<std::string> read_now(const fs::path& path) {
  for (int attempt = 0;; ++attempt) {
    const int opened = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (opened < 0 && errno == ENOENT) return std::nullopt;
    std::string text(kLimitBytes, '\0');
    ssize_t length = -1;
    int error = opened < 0 ? errno : 0;
    if (opened >= 0) {
      do {
        length = ::pread(opened, text.data(), text.size(), 0);
      } while (length < 0 && errno == EINTR);
      if (length < 0) error = errno;
      ::close(opened);
    }
    if (length >= 0) {
      text.resize(static_cast<std::size_t>(length));
      return text;
    }
    if (error == ESTALE && attempt < 3) continue;  // replaced on its way here, says NFS
    fail(ExitCode::environment, "{} cannot be read ({}). Check its rights and its file system.",
         path.string(), reason(error));
  }
}

/// Also what the machine slept through.
double seconds_since_boot() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

std::string random_name() {
  std::random_device random;
  return fmt::format("{}{:08x}{:08x}", kDraftPrefix, random(), random());
}

std::string described(const LeaseSight& sight) {
  if (sight.record) return sight.record->to_text();
  return fmt::format("an unknown holder ({})", sight.damage);
}

std::string how_to_stop(const LeaseHolder& holder) {
  if (!holder.job.empty()) return fmt::format("scancel {}", holder.job);
  return fmt::format("kill -USR2 {} on {}", holder.pid, holder.host);
}

}  // namespace

LeaseSight look_at_lease(const fs::path& folder) {
  LeaseSight sight;
  const auto read = [&](const fs::path& path) {
    const auto text = read_now(path);
    if (!text) return false;
    sight.text = *text;
    sight.record.reset();
    try {
      sight.record = parse_lease(*text, path.string());
    } catch (const Error& error) {
      sight.damage = error.what();
    }
    return true;
  };
  const bool there = read(folder / Lease::kName);
  if (sight.record) sight.epoch = sight.record->epoch;

  std::int64_t claimed = 0;
  std::error_code problem;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, problem))
    claimed = std::max(claimed, epoch_of(entry.path().filename().string()).value_or(0));
  TRESTLE_REQUIRE_AS(environment, !problem, "{} cannot be read ({}). Check its rights.",
                     folder.string(), problem.message());
  if ((sight.record && sight.epoch >= claimed) || claimed == 0) {
    if (there && !sight.record)
      sight.epoch = 1;  // somebody has held it, and nothing says how often
    return sight;
  }
  // Claimed and not yet in place, or lease.json is damaged or gone.
  read(claim_file(folder, claimed));
  sight.epoch = claimed;
  if (sight.record && sight.record->epoch != claimed) {
    sight.damage = claim_file(folder, claimed).string() + " is of another epoch than its name";
    sight.record.reset();
  }
  return sight;
}

/// The one file that this holder overwrites, whatever name it has got.
class Lease::OwnFile {
 public:
  /// Makes it, on disk.
  OwnFile(fs::path path, std::string_view text) : path_(std::move(path)) {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail_to_write(path_, errno);
    try {
      overwrite(text);
    } catch (...) {
      ::unlink(path_.c_str());
      ::close(descriptor_);
      throw;
    }
  }
  ~OwnFile() { ::close(descriptor_); }
  OwnFile(const OwnFile&) = delete;
  OwnFile& operator=(const OwnFile&) = delete;

  /// Other hosts see it when this returns.
  void overwrite(std::string_view text) const {
    for (std::size_t done = 0; done < text.size();) {
      const ssize_t put =
          ::pwrite(descriptor_, text.data() + done, text.size() - done, static_cast<off_t>(done));
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) fail_to_write(path_, errno);
      done += static_cast<std::size_t>(put);
    }
    if (::fdatasync(descriptor_) != 0) fail_to_write(path_, errno);
  }

  /// Gives it this name as well; false if somebody has the name.
  bool also_named(const fs::path& name) const {
    if (::link(path_.c_str(), name.c_str()) == 0) return true;
    const int error = errno;
    // An answer may get lost on the network, and the second try then fails for the first's success.
    struct stat status {};
    if (::fstat(descriptor_, &status) == 0 && status.st_nlink == 2) return true;
    if (error == EEXIST || error == ENOENT) return false;  // ENOENT: the winner has swept up
    if (error != EPERM && error != EOPNOTSUPP && error != ENOSYS && error != EMLINK)
      fail_to_write(name, error);
    // A file system without links.
    const int made = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (made < 0 && errno == EEXIST) return false;
    if (made < 0) fail_to_write(name, errno);
    ::close(made);
    write_file_durable(name, read_now(path_).value_or(""), ExitCode::environment);
    return true;
  }

  void rename(const fs::path& name) {
    if (::rename(path_.c_str(), name.c_str()) != 0) fail_to_write(name, errno);
    path_ = name;
  }

  void remove() const { ::unlink(path_.c_str()); }

 private:
  fs::path path_;
  int descriptor_ = -1;
};

Lease::Lease(fs::path folder, LeaseHolder me, LeaseOptions options)
    : folder_(std::move(folder)),
      options_(std::move(options)),
      beat_s_(std::min(options_.timeout_s / 12, 5.0)) {
  mine_.holder = std::move(me);
  take();
  log_debug("{}: epoch {}; heartbeat every {:.3g} s, which may stand still for {:.3g} s",
            (folder_ / kName).string(), mine_.epoch, beat_s_, options_.timeout_s);
  beating_ = deaf_thread([this] { keep_beating(); });
}

Lease::~Lease() {
  {
    const std::scoped_lock lock(mutex_);
    over_ = true;
  }
  over_changed_.notify_all();
  beating_.join();
  try {
    if (!still_mine()) return;
    mine_.ended = true;
    mine_.beaten = time_text_now();
    file_->overwrite(to_text(mine_));
  } catch (const std::exception& error) {
    log_warn("{} The next start may have to wait for {:.3g} s.", error.what(), options_.timeout_s);
  }
}

void Lease::take() {
  for (;;) {
    const LeaseSight sight = wait_until_free();
    if (claim(std::max(sight.epoch, options_.after_epoch) + 1)) return;
  }
}

LeaseSight Lease::wait_until_free() const {
  using Clock = std::chrono::steady_clock;
  const auto poll = std::chrono::duration<double>(std::clamp(beat_s_ / 10, 0.005, 0.5));
  std::optional<LeaseSight> watched;
  std::optional<LeaseRecord> known;
  auto still_since = Clock::now();
  double next_line_s = 0;
  for (;; std::this_thread::sleep_for(poll)) {
    LeaseSight sight = look_at_lease(folder_);
    if (sight.epoch == 0) return sight;
    const Standing standing = sight.record ? judge(*sight.record, mine_.holder) : Standing::unknown;
    if (standing == Standing::ended) return sight;
    if (standing != Standing::unknown) {
      log_info("{} is taken over: its last holder ({}) {}", folder_.string(), described(sight),
               standing == Standing::dead ? "is dead" : "was this job before its requeue");
      return sight;
    }
    options_.stop.check();
    if (sight.record) {
      const bool beats = known && known->epoch == sight.epoch && known != sight.record;
      if (beats) {
        fail(ExitCode::environment,
             "run directory {} is in use by a run that is alive ({}; its heartbeat goes on). Wait "
             "for its end, stop it ({}), or choose another --run-dir.",
             folder_.string(), described(sight), how_to_stop(sight.record->holder));
      }
      known = sight.record;
    }
    if (!watched || watched->text != sight.text) {  // the first look, another holder, or damage
      if (!sight.record) log_warn("{}", sight.damage);
      watched = std::move(sight);
      still_since = Clock::now();
      next_line_s = 0;
    }
    const double still_s = seconds_since(still_since);
    if (still_s >= options_.timeout_s) {
      log_warn("{} is taken over from {}: no heartbeat for {:.3g} s", folder_.string(),
               described(*watched), still_s);
      return *watched;
    }
    if (still_s >= next_line_s) {
      log_info("{} is held by {}; watching its heartbeat: {:.0f} of {:.3g} s without one",
               folder_.string(), described(*watched), still_s, options_.timeout_s);
      next_line_s = still_s + std::max(options_.timeout_s / 6, 1.0);
    }
  }
}

bool Lease::claim(std::int64_t epoch) {
  mine_.epoch = epoch;
  mine_.taken = mine_.beaten = time_text_now();
  mine_.beats = 0;
  auto file = std::make_unique<OwnFile>(folder_ / random_name(), to_text(mine_));
  try {
    if (!file->also_named(claim_file(folder_, epoch))) {
      file->remove();
      return false;
    }
    file->rename(folder_ / kName);
  } catch (...) {
    file->remove();
    throw;
  }
  fsync_directory(folder_, ExitCode::environment);
  confirmed_s_ = seconds_since_boot();
  // A taker that slept between its look and its claim may have got a number that is long past.
  if (look_at_lease(folder_).epoch > epoch) {
    std::error_code ignored;
    fs::remove(claim_file(folder_, epoch), ignored);
    return false;
  }
  file_ = std::move(file);
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, ignored)) {
    const std::string name = entry.path().filename().string();
    const auto other = epoch_of(name);
    if ((other && *other < epoch) || name.starts_with(kDraftPrefix))
      fs::remove(entry.path(), ignored);
  }
  return true;
}

bool Lease::still_mine() {
  if (lost_) return false;
  const LeaseSight sight = look_at_lease(folder_);
  if (sight.epoch <= mine_.epoch) {
    confirmed_s_ = seconds_since_boot();
    return true;
  }
  lose(sight);
  return false;
}

void Lease::require_mine() {
  if (!still_mine()) throw Error(ExitCode::environment, loss());
}

void Lease::check() {
  if (!lost_ && seconds_since_boot() - confirmed_s_ < options_.timeout_s / 2) return;
  try {
    if (still_mine()) return;
  } catch (const Error&) {
    return;  // not to be found out now; the heartbeat's thread says so
  }
  throw Error(ExitCode::environment, loss());
}

void Lease::lose(const LeaseSight& sight) {
  const std::scoped_lock lock(mutex_);
  loss_ = fmt::format(
      "run directory {} was taken over by another run ({}; epoch {} after this run's {}), because "
      "this one showed no heartbeat for long (it was stopped, or its file system hung). It ends "
      "and saves nothing: the other goes on. If this one was only slow, raise run.lease_timeout_s.",
      folder_.string(), described(sight), sight.epoch, mine_.epoch);
  lost_ = true;
}

std::string Lease::loss() {
  const std::scoped_lock lock(mutex_);
  return loss_;
}

void Lease::keep_beating() {
  bool warned = false;
  const auto over_after = [this](double seconds) {
    std::unique_lock lock(mutex_);
    return over_changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                                  [this] { return over_; });
  };
  while (!over_after(beat_s_)) {
    try {
      if (!still_mine()) break;
      beat();
      warned = false;
    } catch (const std::exception& error) {
      if (!warned)
        log_warn("no heartbeat: {} If that lasts {:.3g} s, another run may take the directory.",
                 error.what(), options_.timeout_s);
      warned = true;
    }
  }
  if (lost_ && !over_after(options_.timeout_s) && options_.overstayed) options_.overstayed(loss());
}

void Lease::beat() {
  ++mine_.beats;
  mine_.beaten = time_text_now();
  const std::string text = to_text(mine_);
  file_->overwrite(text);
  if (read_now(folder_ / kName) != text) put_in_place(text);
}

/// lease.json was deleted, damaged, copied, or written by a predecessor that came late.
void Lease::put_in_place(std::string_view text) {
  auto file = std::make_unique<OwnFile>(folder_ / random_name(), text);
  try {
    file->rename(folder_ / kName);
  } catch (...) {
    file->remove();
    throw;
  }
  file_ = std::move(file);
}

}  // namespace trestle::checkpoint
