#include "dist/verdict.h"

#include "dist/json_text.h"
#include "dist/waiting_operations.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <set>
#include <tuple>

namespace trestle::dist {
namespace {

using Life = RankView::Life;
using Ranks = std::span<const RankView>;

std::string_view kind_name(VerdictKind kind) {
  constexpr std::array<std::string_view, 4> kNames{"died", "desync", "failed", "stalled"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::string in_bytes(std::int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  if (bytes < 1000'000) return fmt::format("{:.3g} kB", value / 1e3);
  if (bytes < 1000'000'000) return fmt::format("{:.3g} MB", value / 1e6);
  return fmt::format("{:.3g} GB", value / 1e9);
}

std::string in_seconds(double s) {
  return s < 10 ? fmt::format("{:.1f} s", s) : fmt::format("{:.0f} s", s);
}

std::string said(const OperationState& operation) {
  std::string text = operation.channel_name + " " + operation.kind;
  if (!operation.name.empty()) text += fmt::format(" \"{}\"", operation.name);
  return text + fmt::format(" ({})", in_bytes(operation.bytes));
}

std::string place(Phase phase, std::int64_t step) {
  if (phase == Phase::start_up) return "start-up";
  if (step < 0) return std::string(phase_name(phase));
  if (phase == Phase::step) return fmt::format("step {}", step);
  return fmt::format("{} at step {}", phase_name(phase), step);
}

std::string who(Ranks ranks, int rank) {
  return fmt::format("rank {} (host {})", rank, ranks[static_cast<std::size_t>(rank)].host);
}

std::string ranks_wait(std::size_t count) {
  return count == 1 ? "1 rank waits" : fmt::format("{} ranks wait", count);
}

/// " and 2 more (ranks 3, 4)" for all but the first.
std::string and_others(const std::vector<int>& ranks) {
  if (ranks.size() < 2) return "";
  constexpr std::size_t kShown = 8;
  std::string list;
  for (std::size_t i = 1; i < std::min(ranks.size(), kShown + 1); ++i)
    list += fmt::format("{}{}", i == 1 ? "" : ", ", ranks[i]);
  if (ranks.size() > kShown + 1) list += ", ...";
  return fmt::format(" and {} more ({} {})", ranks.size() - 1, ranks.size() == 2 ? "rank" : "ranks",
                     list);
}

/// What the rank entered or left last.
const OperationState* last_operation(const RankActivity& activity) {
  const auto ago = [](const OperationState& o) { return o.finished ? o.finished_ago_s : o.age_s; };
  const auto last = std::ranges::min_element(activity.operations, {}, ago);
  return last == activity.operations.end() ? nullptr : &*last;
}

/// "last seen in phase step 61 s ago after gradients all_gather "bucket 2" (26 MB)".
std::string last_seen(const RankView& view) {
  std::string text = fmt::format("last seen in phase {} {} ago", phase_name(view.activity.phase),
                                 in_seconds(view.activity.quiet_s + view.told_ago_s));
  if (const OperationState* last = last_operation(view.activity))
    text += fmt::format(" {} {}", last->finished ? "after" : "in", said(*last));
  return text;
}

std::vector<int> ranks_that(Ranks ranks, auto&& condition) {
  std::vector<int> found;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    if (condition(ranks[rank])) found.push_back(static_cast<int>(rank));
  }
  return found;
}

std::optional<Verdict> judge_gone(Ranks ranks, Life life, std::string_view how) {
  const auto gone = ranks_that(ranks, [&](const RankView& view) { return view.life == life; });
  if (gone.empty()) return std::nullopt;
  const RankView& first = ranks[static_cast<std::size_t>(gone.front())];
  Verdict verdict;
  verdict.kind = VerdictKind::died;
  verdict.rank = gone.front();
  verdict.host = first.host;
  if (const OperationState* last = last_operation(first.activity)) verdict.op = said(*last);
  // Its table may be half a second old. What the others are in since then is nearer the truth.
  Phase phase = first.activity.phase;
  verdict.step = first.activity.step;
  for (const RankView& view : ranks) {
    if (view.activity.step <= verdict.step) continue;
    verdict.step = view.activity.step;
    phase = view.activity.phase;
  }
  std::string waiting;
  for (const Waited& waited : waited_operations(ranks)) {
    if (std::ranges::find(waited.absent, gone.front()) == waited.absent.end()) continue;
    verdict.op = said(*waited.operation);
    waiting = fmt::format("; {} for it at {} since {}", ranks_wait(waited.waiting.size()),
                          verdict.op, in_seconds(waited.since_s));
    break;
  }
  verdict.sentence =
      fmt::format("{}: {}{} {}: {}{}", place(phase, verdict.step), who(ranks, gone.front()),
                  and_others(gone), how, last_seen(first), waiting);
  return verdict;
}

/// What must be equal on all ranks. Texts (bytes of any length) may differ in length.
std::string signature(const OperationState& operation) {
  static const std::set<std::string, std::less<>> equal_sizes{"all_reduce", "reduce_scatter",
                                                              "all_gather", "broadcast"};
  std::string text = operation.kind + "\n" + operation.name;
  if (equal_sizes.contains(operation.kind)) text += fmt::format("\n{}", operation.bytes);
  return text;
}

/// Ranks that issued the same thing at one place of one channel.
struct Party {
  std::vector<int> ranks;
  const OperationState* operation = nullptr;
};

/// Of the oldest place at which ranks differ, the largest party first (of equal ones that with the
/// lowest rank); empty where all agree.
std::vector<Party> parties_of_a_difference(Ranks ranks) {
  std::map<OperationKey, std::map<std::string, Party>> all;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    for (const OperationState& operation : ranks[rank].activity.operations) {
      if (operation.peer >= 0) continue;  // those two need not be the same call
      Party& party = all[key_of(operation)][signature(operation)];
      party.ranks.push_back(static_cast<int>(rank));
      party.operation = &operation;
    }
  }
  const std::map<std::string, Party>* oldest = nullptr;
  const auto age = [](const auto& parties) { return parties.begin()->second.operation->age_s; };
  for (const auto& [key, parties] : all) {
    if (parties.size() > 1 && (!oldest || age(parties) > age(*oldest))) oldest = &parties;
  }
  std::vector<Party> parties;
  if (!oldest) return parties;
  for (const auto& [text, party] : *oldest) parties.push_back(party);
  std::ranges::sort(parties, [](const Party& a, const Party& b) {
    return std::tuple(-std::ssize(a.ranks), a.ranks.front()) <
           std::tuple(-std::ssize(b.ranks), b.ranks.front());
  });
  return parties;
}

/// Two parties are equal and others are still on their way to that place: they will say who is odd.
bool is_open(Ranks ranks, const std::vector<Party>& parties) {
  constexpr double kPatienceS = 5;
  if (parties[0].ranks.size() > parties[1].ranks.size()) return false;
  const OperationState& operation = *parties[0].operation;
  const double told_ago_s = ranks[static_cast<std::size_t>(parties[0].ranks.front())].told_ago_s;
  if (operation.age_s + told_ago_s > kPatienceS) return false;
  const std::size_t expected = operation.members.empty() ? ranks.size() : operation.members.size();
  std::size_t arrived = 0;
  for (const Party& party : parties) arrived += party.ranks.size();
  return arrived < expected;
}

/// About a rank and an operation; the caller says the sentence.
Verdict about(VerdictKind kind, Ranks ranks, int rank, const OperationState& operation,
              std::string sentence) {
  return {.kind = kind,
          .rank = rank,
          .host = ranks[static_cast<std::size_t>(rank)].host,
          .op = said(operation),
          .step = operation.step,
          .sentence = std::move(sentence)};
}

/// The many are right.
Verdict desync(Ranks ranks, const Party& many, const Party& few) {
  const OperationState& operation = *few.operation;
  const int rank = few.ranks.front();
  return about(
      VerdictKind::desync, ranks, rank, operation,
      fmt::format(
          "{}: the ranks issued different operations as number {} of channel {}: {}{} {}, {}{} "
          "{}. Every rank must make the same calls in the same order.",
          place(operation.phase, operation.step), operation.sequence, operation.channel_name,
          who(ranks, rank), and_others(few.ranks), said(operation), who(ranks, many.ranks.front()),
          and_others(many.ranks), said(*many.operation)));
}

std::optional<Verdict> judge_failed(Ranks ranks) {
  const auto failed =
      ranks_that(ranks, [](const RankView& view) { return view.failure.has_value(); });
  if (failed.empty()) return std::nullopt;
  const RankView& view = ranks[static_cast<std::size_t>(failed.front())];
  const OperationState* last = last_operation(view.activity);
  return Verdict{
      .kind = VerdictKind::failed,
      .code = view.failure->code,
      .rank = failed.front(),
      .host = view.host,
      .op = last ? said(*last) : "",
      .step = view.activity.step,
      .sentence = fmt::format("{}: {} failed: {}", place(view.activity.phase, view.activity.step),
                              who(ranks, failed.front()), view.failure->sentence)};
}

Verdict never_arrived(Ranks ranks, const Waited& waited, std::vector<int> absent) {
  const OperationState& operation = *waited.operation;
  const RankView& view = ranks[static_cast<std::size_t>(absent.front())];
  return about(VerdictKind::stalled, ranks, absent.front(), operation,
               fmt::format("{}: {}{} never arrived at {}: {}; {} since {}",
                           place(operation.phase, operation.step), who(ranks, absent.front()),
                           and_others(absent), said(operation), last_seen(view),
                           ranks_wait(waited.waiting.size()), in_seconds(waited.since_s)));
}

/// Each of two groups waits in an operation that the other does not come to.
Verdict in_different_operations(Ranks ranks, const Waited& a, const Waited& b) {
  const bool a_is_many = std::pair(b.waiting.size(), a.waiting.front()) <
                         std::pair(a.waiting.size(), b.waiting.front());
  const Waited& many = a_is_many ? a : b;
  const Waited& few = a_is_many ? b : a;
  const OperationState& operation = *few.operation;
  const int rank = few.waiting.front();
  return about(
      VerdictKind::desync, ranks, rank, operation,
      fmt::format(
          "{}: the ranks wait in different operations since {}: {}{} in {}, {}{} in {}. Every "
          "rank must make the same calls in the same order.",
          place(operation.phase, operation.step), in_seconds(few.since_s), who(ranks, rank),
          and_others(few.waiting), said(operation), who(ranks, many.waiting.front()),
          and_others(many.waiting), said(*many.operation)));
}

/// Everybody is in it, and it does not end.
Verdict never_ended(Ranks ranks, const Waited& waited) {
  const OperationState& operation = *waited.operation;
  const int rank = waited.waiting.front();
  return about(
      VerdictKind::stalled, ranks, rank, operation,
      fmt::format(
          "{}: {} does not end on {}{}, though every rank has arrived at it: {} since {} (what "
          "carries the bytes between the ranks is stuck)",
          place(operation.phase, operation.step), said(operation), who(ranks, rank),
          and_others(waited.waiting), ranks_wait(waited.waiting.size()),
          in_seconds(waited.since_s)));
}

Verdict does_nothing(Ranks ranks, int rank) {
  const RankView& view = ranks[static_cast<std::size_t>(rank)];
  const OperationState* last = last_operation(view.activity);
  return {.kind = VerdictKind::stalled,
          .rank = rank,
          .host = view.host,
          .op = last ? said(*last) : "",
          .step = view.activity.step,
          .sentence = fmt::format("{}: {} makes no progress: {}; no rank waits for it",
                                  place(view.activity.phase, view.activity.step), who(ranks, rank),
                                  last_seen(view))};
}

std::optional<Verdict> judge_stalled(Ranks ranks, const TimeLimits& limits) {
  const auto quiet_s = [](const RankView& view) { return view.activity.quiet_s + view.told_ago_s; };
  const auto overdue = ranks_that(ranks, [&](const RankView& view) {
    return view.life == Life::alive && quiet_s(view) > limits.of(view.activity.phase);
  });
  if (overdue.empty()) return std::nullopt;
  const auto saves_in_time = [&](int rank) {
    const RankView& view = ranks[static_cast<std::size_t>(rank)];
    return view.life == Life::alive && view.activity.phase == Phase::checkpoint &&
           quiet_s(view) <= limits.checkpoint_s;
  };

  const auto waited = waited_operations(ranks);
  std::set<int> waits_for_others;
  for (const Waited& w : waited) {
    if (!w.absent.empty()) waits_for_others.insert(w.waiting.begin(), w.waiting.end());
  }
  // Whoever is late because it waits for a third rank is not the one to name.
  for (const Waited& w : waited) {
    std::vector<int> free = w.absent;
    std::erase_if(free, [&](int rank) { return waits_for_others.contains(rank); });
    // In a step a rank may have to wait for its disk. Who waits for it has a save's patience, too.
    const auto saving = std::erase_if(free, saves_in_time);
    if (!free.empty()) return never_arrived(ranks, w, free);
    if (saving > 0) return std::nullopt;
  }
  for (const Waited& w : waited) {
    if (w.absent.empty()) continue;
    const auto other = std::ranges::find_if(waited, [&](const Waited& o) {
      return !o.absent.empty() && std::ranges::find(o.waiting, w.absent.front()) != o.waiting.end();
    });
    return in_different_operations(ranks, w, *other);
  }
  if (!waited.empty()) return never_ended(ranks, waited.front());
  return does_nothing(ranks, *std::ranges::max_element(overdue, {}, [&](int rank) {
                        return quiet_s(ranks[static_cast<std::size_t>(rank)]);
                      }));
}

}  // namespace

double TimeLimits::of(Phase phase) const {
  switch (phase) {
    case Phase::start_up:
      return startup_s;
    case Phase::step:
      return step_s;
    case Phase::checkpoint:
      return checkpoint_s;
    case Phase::idle:
    case Phase::pictures:
    case Phase::evaluate:
      break;
  }
  return std::numeric_limits<double>::infinity();
}

std::optional<Verdict> judge(Ranks ranks, const TimeLimits& limits) {
  if (auto died = judge_gone(ranks, Life::lost, "died (its connection ended)")) return died;
  if (const auto parties = parties_of_a_difference(ranks); !parties.empty()) {
    if (is_open(ranks, parties)) return std::nullopt;
    return desync(ranks, parties[0], parties[1]);
  }
  if (auto failed = judge_failed(ranks)) return failed;
  if (auto silent = judge_gone(
          ranks, Life::silent,
          "is gone (it is connected and silent: its host or network is down, or it is stopped)"))
    return silent;
  return judge_stalled(ranks, limits);
}

std::string verdict_json(const Verdict& verdict) {
  return fmt::format(
      R"({{"kind":"{}","rank":{},"host":{},"op":{},"step":{},"code":{},"sentence":{}}})"
      "\n",
      kind_name(verdict.kind), verdict.rank, json_text(verdict.host), json_text(verdict.op),
      verdict.step, static_cast<int>(verdict.code), json_text(verdict.sentence));
}

std::string encode(const Verdict& verdict) {
  Packer packer;
  packer.number(static_cast<std::int64_t>(verdict.kind));
  packer.number(static_cast<std::int64_t>(verdict.code));
  packer.number(verdict.rank);
  packer.text(verdict.host);
  packer.text(verdict.op);
  packer.number(verdict.step);
  packer.text(verdict.sentence);
  return packer.take();
}

Verdict decode_verdict(std::string_view bytes) {
  Unpacker unpacker(bytes);
  Verdict verdict;
  verdict.kind = static_cast<VerdictKind>(unpacker.number());
  verdict.code = static_cast<ExitCode>(unpacker.number());
  verdict.rank = static_cast<int>(unpacker.number());
  verdict.host = unpacker.text();
  verdict.op = unpacker.text();
  verdict.step = unpacker.number();
  verdict.sentence = unpacker.text();
  return verdict;
}

}  // namespace trestle::dist
