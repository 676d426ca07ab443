#include "dist/watchdog.h"

#include "base/deaf_thread.h"
#include "base/log.h"
#include "dist/binding.h"
#include "dist/peer_star.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utility>

namespace trestle::dist {
namespace {

using Clock = std::chrono::steady_clock;
using Life = RankView::Life;

enum Message : std::uint8_t {
  message_beat = 16,
  message_ask,
  message_failed,
  message_trip,
  message_goodbye,
  message_all_left
};

constexpr auto kTick = std::chrono::milliseconds(100);
/// A process that runs does not sleep through more than this between two ticks.
constexpr double kLongestTickS = 0.5;
/// After the first sign of trouble: the tables that judge it are asked for anew.
constexpr double kAskS = 0.3;
/// Rank 0 stays until the verdict has reached everyone, but no longer.
constexpr auto kDeliver = std::chrono::milliseconds(500);

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

class Watchdog::Watch {
 public:
  Watch(const Communicator& world, FlightRing& ring, const WatchdogOptions& options,
        WatchdogHooks hooks, Shared& shared)
      : rank_(world.rank()),
        ring_(ring),
        options_(options),
        hooks_(std::move(hooks)),
        shared_(shared),
        links_(connect_star(world, options.join_s)),
        views_(static_cast<std::size_t>(world.size())),
        heard_(views_.size()) {
    const auto hosts = world.all_gather_bytes(node_name());
    for (std::size_t rank = 0; rank < views_.size(); ++rank) {
      views_[rank].host = hosts[rank];
      if (links_[rank] || int(rank) == rank_) views_[rank].life = Life::alive;
    }
  }

  void run();

 private:
  struct Heard {
    double told_at_s = 0;   ///< its activity, in lived time
    double heard_at_s = 0;  ///< anything
    bool answered = false;  ///< since it was asked
  };

  bool is_root() const { return rank_ == 0; }
  std::size_t me() const { return static_cast<std::size_t>(rank_); }

  void wait_for_news();
  void read_links();
  void on_message(std::size_t from, std::uint8_t type, std::string_view payload);
  void count_time();
  void describe_myself();
  void tell();
  void take_orders();
  void look_for_trouble();
  bool all_have_left() const;
  void trip(const Verdict& verdict, bool decided_here);
  void send_to_all(std::uint8_t type, std::string_view payload);

  const int rank_;
  FlightRing& ring_;
  const WatchdogOptions options_;
  const WatchdogHooks hooks_;
  Shared& shared_;
  std::vector<std::optional<PeerLink>> links_;
  std::vector<RankView> views_;  ///< by rank, as the next two
  std::vector<Heard> heard_;

  Clock::time_point last_tick_ = Clock::now();
  double lived_s_ = 0;
  std::uint64_t events_ = 0;
  double last_event_s_ = 0;
  double next_beat_s_ = 0;
  double asked_at_s_ = -1;  ///< -1: nothing is suspected
  bool news_ = false;       ///< something that a judge should hear now
  bool said_goodbye_ = false, said_failure_ = false;
  std::optional<Verdict> told_;  ///< rank 0's
  bool over_ = false;
};

void Watchdog::Watch::run() {
  while (!over_) {
    wait_for_news();
    count_time();
    take_orders();
    read_links();
    if (over_) break;
    tell();
    look_for_trouble();
  }
}

void Watchdog::Watch::wait_for_news() {
  std::vector<pollfd> waiting{{shared_.wake_fd, POLLIN, 0}};
  for (auto& link : links_) {
    if (!link || !link->open()) continue;
    const short events = link->flush() ? POLLIN : POLLIN | POLLOUT;
    waiting.push_back({link->descriptor(), events, 0});
  }
  ::poll(waiting.data(), waiting.size(), int(kTick.count()));
  std::uint64_t woken = 0;
  [[maybe_unused]] const ssize_t taken = ::read(shared_.wake_fd, &woken, sizeof woken);
}

void Watchdog::Watch::count_time() {
  const auto now = Clock::now();
  lived_s_ += std::min(seconds(now - std::exchange(last_tick_, now)), kLongestTickS);
  if (const std::uint64_t events = ring_.events(); events != std::exchange(events_, events))
    last_event_s_ = lived_s_;
}

void Watchdog::Watch::describe_myself() {
  views_[me()].activity = ring_.activity();
  views_[me()].activity.quiet_s = lived_s_ - last_event_s_;
  heard_[me()] = {.told_at_s = lived_s_, .heard_at_s = lived_s_, .answered = true};
}

/// What this rank's other threads asked for.
void Watchdog::Watch::take_orders() {
  bool leaving = false, abandoned = false;
  std::optional<RankView::Failure> failure;
  {
    const std::lock_guard lock(shared_.mutex);
    leaving = shared_.leaving;
    abandoned = shared_.abandoned;
    failure = shared_.failure;
  }
  if (abandoned) {
    over_ = true;
    return;
  }
  if (failure && !std::exchange(said_failure_, true)) {
    news_ = true;
    describe_myself();
    views_[me()].failure = failure;
    Packer packer;
    packer.number(static_cast<std::int64_t>(failure->code));
    packer.text(failure->sentence);
    packer.text(encode(views_[me()].activity));
    if (!is_root()) send_to_all(message_failed, packer.take());
  }
  if (leaving && !std::exchange(said_goodbye_, true)) {
    if (!is_root()) send_to_all(message_goodbye, "");
  }
  if (is_root() && said_goodbye_ && all_have_left()) {
    send_to_all(message_all_left, "");
    for (auto& link : links_) {
      if (link) link->finish_sending();
    }
    over_ = true;
  }
}

bool Watchdog::Watch::all_have_left() const {
  return std::all_of(views_.begin() + 1, views_.end(),
                     [](const RankView& view) { return view.life == Life::left; });
}

void Watchdog::Watch::send_to_all(std::uint8_t type, std::string_view payload) {
  constexpr std::size_t kBacklogBytes = 16 << 20;  // of a rank that no longer reads
  for (auto& link : links_) {
    if (link && (link->queued_bytes() < kBacklogBytes || type == message_trip))
      link->send(type, payload);
  }
}

void Watchdog::Watch::read_links() {
  for (std::size_t from = 0; from < links_.size(); ++from) {
    auto& link = links_[from];
    if (!link || !link->open()) continue;
    const bool open = link->receive(
        [&](std::uint8_t type, std::string_view payload) { on_message(from, type, payload); });
    if (open || views_[from].life == Life::left) continue;
    views_[from].life = Life::lost;
    news_ = true;
  }
  if (told_ && !over_) trip(*told_, /*decided_here=*/false);
}

void Watchdog::Watch::on_message(std::size_t from, std::uint8_t type, std::string_view payload) {
  RankView& view = views_[from];
  Heard& heard = heard_[from];
  heard.heard_at_s = lived_s_;
  if (view.life == Life::silent) view.life = Life::alive;
  const auto told = [&](std::string_view activity) {
    view.activity = decode_activity(activity);
    heard.told_at_s = lived_s_;
    heard.answered = true;
  };
  switch (type) {
    case message_beat:
      told(payload);
      break;
    case message_ask:
      next_beat_s_ = 0;
      break;
    case message_failed: {
      Unpacker unpacker(payload);
      const auto code = static_cast<ExitCode>(unpacker.number());
      view.failure = RankView::Failure{code, unpacker.text()};
      told(unpacker.text());
      news_ = true;
      break;
    }
    case message_trip:
      told_ = decode_verdict(payload);
      break;
    case message_goodbye:
      view.life = Life::left;
      break;
    case message_all_left:
      view.life = Life::left;
      over_ = true;
      break;
    default:
      break;
  }
}

void Watchdog::Watch::tell() {
  if (lived_s_ < next_beat_s_) return;
  next_beat_s_ = lived_s_ + options_.beat_s;
  news_ = true;
  describe_myself();
  send_to_all(message_beat, encode(views_[me()].activity));
}

void Watchdog::Watch::look_for_trouble() {
  const bool asked = asked_at_s_ >= 0;
  if (!std::exchange(news_, false) && !asked) return;
  bool all_answered = true;
  for (std::size_t rank = 0; rank < views_.size(); ++rank) {
    RankView& view = views_[rank];
    if (rank != me() && view.life == Life::alive &&
        lived_s_ - heard_[rank].heard_at_s > options_.silence_s)
      view.life = Life::silent;
    view.told_ago_s = lived_s_ - heard_[rank].told_at_s;
    all_answered = all_answered && (heard_[rank].answered || view.life != Life::alive);
  }
  if (!is_root()) {  // rank 0 judges, unless it is the one that is gone
    const Life root = views_.front().life;
    if (root != Life::lost && root != Life::silent) return;
    describe_myself();
    if (const auto verdict = judge(views_, options_.limits)) trip(*verdict, /*decided_here=*/true);
    return;
  }
  if (asked && !all_answered && lived_s_ - asked_at_s_ < kAskS) return;
  const auto verdict = judge(views_, options_.limits);
  if (!verdict) {
    asked_at_s_ = -1;
  } else if (asked) {
    trip(*verdict, /*decided_here=*/true);
  } else {  // it is to be judged by tables of one moment
    asked_at_s_ = lived_s_;
    for (Heard& heard : heard_) heard.answered = false;
    describe_myself();
    send_to_all(message_ask, "");
  }
}

void Watchdog::Watch::trip(const Verdict& verdict, bool decided_here) {
  over_ = true;
  if (is_root()) send_to_all(message_trip, encode(verdict));

  // The disk or the log may hang as well as anything else, so another thread goes there.
  struct Recording {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
  };
  const auto recording = std::make_shared<Recording>();
  deaf_thread([recording, verdict, decided_here, record = hooks_.record] {
    try {
      record(verdict, decided_here);
    } catch (const std::exception& error) {
      log_error("{}", error.what());
    }
    const std::lock_guard lock(recording->mutex);
    recording->done = true;
    recording->changed.notify_all();
  }).detach();

  // A socket closed with unread bytes in it takes back what it sent last: read until they go.
  const auto until = Clock::now() + kDeliver;
  const auto anyone_left = [&] {
    return is_root() && std::ranges::any_of(links_, [](auto& l) { return l && l->open(); });
  };
  for (auto& link : links_) {
    if (is_root() && link) link->finish_sending();
  }
  while (anyone_left() && Clock::now() < until) {
    wait_for_news();
    for (auto& link : links_) {
      if (link) link->receive([](std::uint8_t, std::string_view) {});
    }
  }
  std::unique_lock lock(recording->mutex);
  recording->changed.wait_for(lock, std::chrono::duration<double>(options_.record_s),
                              [&] { return recording->done; });
  lock.unlock();
  hooks_.end(verdict.code);
}

Watchdog::Watchdog(const Communicator& world, FlightRing& ring, const WatchdogOptions& options,
                   WatchdogHooks hooks)
    : shared_(std::make_unique<Shared>()) {
  world.agreed([&] {
    shared_->wake_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    TRESTLE_REQUIRE_AS(environment, shared_->wake_fd >= 0,
                       "the watchdog gets no event descriptor ({}). Raise the limit of open files "
                       "(ulimit -n).",
                       std::strerror(errno));
  });
  watch_ = std::make_unique<Watch>(world, ring, options, std::move(hooks), *shared_);
  thread_ = deaf_thread([this] {
    try {
      watch_->run();
    } catch (const std::exception& error) {
      log_error("the watchdog has ended ({}); nothing watches this rank any more", error.what());
    }
    const std::lock_guard lock(shared_->mutex);
    shared_->over = true;
    shared_->changed.notify_all();
  });
}

Watchdog::~Watchdog() {
  say([](Shared& shared) { shared.abandoned = true; });
  if (thread_.joinable()) thread_.join();
  if (shared_->wake_fd >= 0) ::close(shared_->wake_fd);
}

void Watchdog::say(const std::function<void(Shared&)>& change) {
  {
    const std::lock_guard lock(shared_->mutex);
    change(*shared_);
  }
  const std::uint64_t one = 1;  // where it does not arrive, the thread looks a tick later
  [[maybe_unused]] const ssize_t written = ::write(shared_->wake_fd, &one, sizeof one);
}

void Watchdog::wait_for_end() {
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait_for(lock, kPatience, [&] { return shared_->over; });
}

void Watchdog::goodbye() {
  say([](Shared& shared) { shared.leaving = true; });
  wait_for_end();
}

void Watchdog::failed(ExitCode code, const std::string& sentence) {
  say([&](Shared& shared) { shared.failure = RankView::Failure{code, sentence}; });
  wait_for_end();
}

}  // namespace trestle::dist
