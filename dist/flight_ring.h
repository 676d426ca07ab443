// The flight ring of a rank: its last collectives, each with its sequence number, bytes, phase and
// times, kept in memory and written out when a run is stuck, loses a rank, or is asked to.
//
//   dist::FlightRing ring(2000, world.size());
//   world.observe(&ring);                                  // every operation is entered from now
//   on dist::PhaseScope phase(&ring, dist::Phase::step, 812); ring.write_jsonl([&](std::string_view
//   line) { file << line; });
//
// LOCAL. THREADS: any; a mutex that is never held for longer than a copy of the entries.
#pragma once
#include "dist/activity.h"
#include "dist/operation_observer.h"

#include <chrono>
#include <functional>
#include <map>
#include <mutex>

namespace trestle::dist {

class FlightRing : public OperationObserver {
 public:
  using Clock = std::chrono::steady_clock;

  /// Keeps the last `entries` operations, and besides those all that are not finished.
  FlightRing(std::size_t entries, int world);

  std::uint64_t queued(const OperationInfo& operation) override;
  void started(std::uint64_t id) override;
  void finished(std::uint64_t id) override;

  /// What the other ranks are told. Of each channel: up to `around` finished and as many unfinished
  /// operations, nearest to the border between them.
  RankActivity activity(std::size_t around = 8) const;

  /// Changes whenever something begins, ends or changes its phase: a run that lives moves it.
  std::uint64_t events() const;

  /// One JSON object a line, oldest first: {sequence, channel, channel_name, kind, name, bytes,
  /// peer, phase, step, queued_at (UTC), queued_s, started_s, finished_s}. Times in seconds since
  /// the ring was made; null: not yet.
  void write_jsonl(const std::function<void(std::string_view line)>& sink) const;

 private:
  friend class PhaseScope;
  struct Entry {
    std::uint64_t id = 0;
    OperationState what;                                ///< without its ages
    Clock::time_point queued{}, started{}, finished{};  ///< the epoch: not yet
    bool is_finished() const { return finished != Clock::time_point{}; }
  };

  struct Place {
    Phase phase = Phase::idle;
    std::int64_t step = -1;
  };
  Place enter(Place place);
  Place place() const;

  Entry* find(std::uint64_t id);
  void touch();
  std::vector<Entry> entries_in_order() const;

  const std::size_t capacity_;
  const std::size_t world_;
  const Clock::time_point made_ = Clock::now();
  const std::chrono::system_clock::time_point made_at_ = std::chrono::system_clock::now();

  mutable std::mutex mutex_;
  std::vector<Entry> entries_;               ///< operation `id` at (id - 1) % capacity_
  std::map<std::uint64_t, Entry> stranded_;  ///< unfinished, though its place is taken
  std::uint64_t last_id_ = 0;
  Place place_;
  std::uint64_t events_ = 0;
  Clock::time_point last_event_ = Clock::now();
};

/// Says in which phase this rank is for as long as the object lives; then the one before holds
/// again. A null ring is allowed: nobody watches. One thread, the run's main one, makes these.
class PhaseScope {
 public:
  /// `step` -1: as before.
  PhaseScope(FlightRing* ring, Phase phase, std::int64_t step = -1);
  ~PhaseScope();
  PhaseScope(const PhaseScope&) = delete;
  PhaseScope& operator=(const PhaseScope&) = delete;

 private:
  FlightRing* ring_;
  FlightRing::Place before_;
};

}  // namespace trestle::dist
