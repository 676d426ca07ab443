// What a rank is doing, as the others are told: its phase, its step, and the last operations of
// each channel. Flight rings fill these tables, the watchdog carries them, the verdict reads them.
//
// LOCAL, plain values. THREADS: any.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::dist {

/// What a run spends its time on. Each has its own patience (see TimeLimits in verdict.h).
enum class Phase : std::uint8_t { idle, start_up, step, checkpoint, pictures, evaluate };
std::string_view phase_name(Phase phase);

struct OperationState {
  std::int64_t channel = 0;
  std::string channel_name;
  std::vector<int> members;   ///< world ranks of the channel; empty: all
  std::int64_t sequence = 0;  ///< of its channel; of the messages with `peer` where there is one
  int peer = -1;              ///< the other rank of a send or recv
  std::string kind;           ///< "all_reduce"
  std::string name;           ///< "bucket 7"; may be empty
  std::int64_t bytes = 0;
  Phase phase = Phase::idle;
  std::int64_t step = -1;
  bool finished = false;
  double age_s = 0;           ///< since it was queued
  double finished_ago_s = 0;  ///< where it is finished
  bool operator==(const OperationState&) const = default;
};

struct RankActivity {
  Phase phase = Phase::idle;
  std::int64_t step = -1;  ///< -1: before the first
  double quiet_s = 0;      ///< since anything began, ended or changed its phase
  /// Of each channel the last ones finished and the first ones not finished, in order.
  std::vector<OperationState> operations;
  bool operator==(const RankActivity&) const = default;
};

std::string encode(const RankActivity& activity);
/// Throws Error(peer) for bytes that encode() did not make.
RankActivity decode_activity(std::string_view bytes);

/// Numbers and texts as bytes, between processes of one program on one kind of machine.
class Packer {
 public:
  void number(std::int64_t value);
  void real(double value);
  void text(std::string_view value);
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// Reads what a Packer wrote, in the same order; throws Error(peer) where the bytes end early.
class Unpacker {
 public:
  explicit Unpacker(std::string_view bytes) : rest_(bytes) {}
  std::int64_t number();
  double real();
  std::string text();

 private:
  std::string_view take(std::size_t count);
  std::string_view rest_;
};

}  // namespace trestle::dist
