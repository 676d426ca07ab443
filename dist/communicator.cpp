#include "dist/communicator.h"

#include "dist/mpi_transport.h"
#include "dist/reduce.h"
#include "dist/transport.h"

#include <algorithm>

namespace trestle::dist {
namespace {

std::span<std::byte> writable_bytes(std::string& text) {
  return std::as_writable_bytes(std::span(text.data(), text.size()));
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

template <class T>
void all_reduce_values(Transport& transport, std::span<T> values, ReduceOp op) {
  const size_t count = values.size();
  std::vector<T> all(count * transport.size());
  gather_equal(transport, std::as_bytes(values), std::as_writable_bytes(std::span(all)));
  std::copy_n(all.begin(), count, values.begin());
  for (int rank = 1; rank < transport.size(); ++rank) {
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

}  // namespace

Communicator::Communicator(std::shared_ptr<Transport> transport)
    : transport_(std::move(transport)) {}

Communicator Communicator::self() { return Communicator(make_lone_transport()); }

Communicator Communicator::world() { return Communicator(make_mpi_world_transport()); }

int Communicator::rank() const { return transport_->rank(); }

int Communicator::size() const { return transport_->size(); }

Communicator Communicator::split(int color, int key, std::string_view) const {
  TRESTLE_ASSERT(color >= 0, "split by color {}", color);
  return Communicator(transport_->split(color, key));
}

void Communicator::barrier() const { dist::barrier(*transport_); }

std::vector<std::string> Communicator::all_gather_bytes(std::string_view mine) const {
  std::vector<uint64_t> sizes(size());
  const uint64_t my_size = mine.size();
  gather_equal(*transport_, std::as_bytes(std::span(&my_size, 1)),
               std::as_writable_bytes(std::span(sizes)));

  std::vector<std::string> all(size());
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  for (int other = 0; other < size(); ++other) {
    if (other == rank()) {
      all[other] = mine;
      continue;
    }
    all[other].resize(sizes[other]);
    outgoing.push_back({other, bytes_of(mine)});
    incoming.push_back({other, writable_bytes(all[other])});
  }
  transport_->exchange(outgoing, incoming);
  return all;
}

std::string Communicator::broadcast_bytes(std::string_view mine, int root) const {
  uint64_t root_size = mine.size();
  broadcast(*transport_, std::as_writable_bytes(std::span(&root_size, 1)), root);
  std::string bytes = rank() == root ? std::string(mine) : std::string(root_size, '\0');
  broadcast(*transport_, writable_bytes(bytes), root);
  return bytes;
}

void Communicator::all_reduce(std::span<double> values, ReduceOp op) const {
  all_reduce_values(*transport_, values, op);
}

void Communicator::all_reduce(std::span<int64_t> values, ReduceOp op) const {
  all_reduce_values(*transport_, values, op);
}

void Communicator::agree(const std::exception_ptr& mine) const {
  if (size() == 1) {
    if (mine) std::rethrow_exception(mine);
    return;
  }
  const std::vector<std::string> failures = all_gather_bytes(encode(mine));
  const auto failed = [](const std::string& text) { return !text.empty(); };
  // A rank that was asked to stop must not hide what went wrong on another.
  auto lowest = std::ranges::find_if(failures, [&](const std::string& text) {
    return failed(text) && code_in(text) != ExitCode::preempted;
  });
  if (lowest == failures.end()) lowest = std::ranges::find_if(failures, failed);
  if (lowest == failures.end()) return;

  const ExitCode code = code_in(*lowest);
  const std::string text = lowest->substr(lowest->find('\n') + 1);
  const std::string origin = fmt::format("rank {}: ", lowest - failures.begin());
  const bool all_alike = std::ranges::count(failures, *lowest) == size();
  throw AgreedError(code, all_alike || text.starts_with(origin) ? text : origin + text);
}

}  // namespace trestle::dist
