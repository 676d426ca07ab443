#include "dist/communicator.h"

#include "dist/operations.h"
#include "dist/reduce.h"

#include <algorithm>
#include <limits>

namespace trestle::dist {
namespace {

std::span<std::byte> writable_bytes(std::string& text) {
  return std::as_writable_bytes(std::span(text.data(), text.size()));
}

template <class T>
std::vector<T> gather_values(Channel& channel, std::string_view kind, std::span<const T> mine) {
  std::vector<T> all(mine.size() * channel.size());
  all_gather(channel, {.kind = kind}, std::as_bytes(mine), std::as_writable_bytes(std::span(all)))
      ->wait();
  return all;
}

template <class T>
void all_reduce_values(Channel& channel, std::span<T> values, ReduceOp op) {
  const size_t count = values.size();
  const std::vector<T> all = gather_values<T>(channel, "all_reduce", values);
  std::copy_n(all.begin(), count, values.begin());
  for (int rank = 1; rank < channel.size(); ++rank) {
    combine(values.data(), all.data() + rank * count, static_cast<int64_t>(count), op);
  }
}

/// What agree() sends: nothing, or the exit code, a newline and the text.
std::string encode(const std::exception_ptr& failure) {
  if (!failure) return {};
  const auto encoded = [](ExitCode code, std::string_view text) {
    return fmt::format("{}\n{}", static_cast<int>(code), text);
  };
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return encoded(error.code(), error.what());
  } catch (const std::exception& error) {
    return encoded(ExitCode::environment, error.what());
  } catch (...) {
    return encoded(ExitCode::environment, "an exception of an unknown type");
  }
}

ExitCode code_in(const std::string& encoded) {
  return static_cast<ExitCode>(std::stoi(encoded.substr(0, encoded.find('\n'))));
}

/// It may have been agreed on before, by some of these ranks.
bool names_a_rank(std::string_view text) {
  constexpr std::string_view kRank = "rank ";
  if (!text.starts_with(kRank)) return false;
  text.remove_prefix(kRank.size());
  const std::size_t end = text.find_first_not_of("0123456789");
  return end != 0 && end != std::string_view::npos && text.substr(end).starts_with(": ");
}

}  // namespace

Communicator::Communicator(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}

Communicator Communicator::self() {
  return Communicator(std::make_shared<Channel>(
      make_lone_transport(std::numeric_limits<int>::max()), 0, std::vector<int>{0}, 0, "self"));
}

int Communicator::rank() const { return channel_->rank(); }

int Communicator::size() const { return channel_->size(); }

Communicator Communicator::split(int color, int key, std::string_view name) const {
  TRESTLE_ASSERT(color >= 0, "split by color {}", color);
  return Communicator(channel_->split(color, key, name));
}

void Communicator::observe(OperationObserver* observer) const {
  channel_->transport().observed().set(observer);
}

void Communicator::barrier() const { dist::barrier(*channel_, {.kind = "barrier"})->wait(); }

std::vector<std::string> Communicator::all_gather_bytes(std::string_view mine) const {
  return gather("all_gather_bytes", mine);
}

std::vector<std::string> Communicator::gather(std::string_view kind, std::string_view mine) const {
  std::vector<std::string> all;
  gather_texts(*channel_, {.kind = kind}, mine, all)->wait();
  return all;
}

std::string Communicator::broadcast_bytes(std::string_view mine, int root) const {
  const Call call{.kind = "broadcast_bytes"};
  uint64_t root_size = mine.size();
  broadcast(*channel_, call, std::as_writable_bytes(std::span(&root_size, 1)), root)->wait();
  std::string bytes = rank() == root ? std::string(mine) : std::string(root_size, '\0');
  broadcast(*channel_, call, writable_bytes(bytes), root)->wait();
  return bytes;
}

void Communicator::all_reduce(std::span<double> values, ReduceOp op) const {
  all_reduce_values(*channel_, values, op);
}

void Communicator::all_reduce(std::span<int64_t> values, ReduceOp op) const {
  all_reduce_values(*channel_, values, op);
}

std::vector<int64_t> Communicator::all_gather(std::span<const int64_t> mine) const {
  return gather_values(*channel_, "all_gather", mine);
}

void Communicator::agree(const std::exception_ptr& mine) const {
  if (size() == 1) {
    if (mine) std::rethrow_exception(mine);
    return;
  }
  const std::vector<std::string> failures = gather("agree", encode(mine));
  const auto failed = [](const std::string& text) { return !text.empty(); };
  // A rank that was asked to stop must not hide what went wrong on another.
  auto lowest = std::ranges::find_if(failures, [&](const std::string& text) {
    return failed(text) && code_in(text) != ExitCode::preempted;
  });
  if (lowest == failures.end()) lowest = std::ranges::find_if(failures, failed);
  if (lowest == failures.end()) return;

  const ExitCode code = code_in(*lowest);
  const std::string text = lowest->substr(lowest->find('\n') + 1);
  const auto place = static_cast<std::size_t>(lowest - failures.begin());
  const std::string origin = fmt::format("rank {}: ", channel_->members()[place]);
  const bool all_alike = std::ranges::count(failures, *lowest) == size();
  throw AgreedError(code, all_alike || names_a_rank(text) ? text : origin + text);
}

}  // namespace trestle::dist
