#include "dist/transport.h"

#include "base/error.h"

#include <array>
#include <cstring>
#include <vector>

namespace trestle::dist {
namespace {

class Finished : public Operation {
 public:
  void wait() override {}
  bool test() override { return true; }
};

class LoneTransport : public Transport {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::shared_ptr<Transport> split(int, int) override { return make_lone_transport(); }
  std::unique_ptr<Operation> start(std::span<const Outgoing> outgoing,
                                   std::span<const Incoming> incoming) override {
    TRESTLE_ASSERT(outgoing.empty() && incoming.empty(), "a lone rank has no one to talk to");
    return std::make_unique<Finished>();
  }
};

}  // namespace

void throw_size_mismatch(int rank, int from, size_t expected, const std::string& arrived) {
  fail(
      ExitCode::peer,
      "rank {} expected {} bytes from rank {}, and {} came (the ranks issued different operations, "
      "or the same with different sizes). Every rank must make the same calls in the same order.",
      rank, expected, from, arrived);
}

std::shared_ptr<Transport> make_lone_transport() { return std::make_shared<LoneTransport>(); }

void gather_equal(Transport& transport, std::span<const std::byte> mine, std::span<std::byte> all) {
  const int rank = transport.rank(), size = transport.size();
  TRESTLE_ASSERT(all.size() == mine.size() * size, "{} bytes gathered from {} ranks do not fit {}",
                 mine.size(), size, all.size());
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  // Starting at the next rank keeps everyone from sending to rank 0 first.
  for (int step = 1; step < size; ++step) {
    const int to = (rank + step) % size, from = (rank + size - step) % size;
    outgoing.push_back({to, mine});
    incoming.push_back({from, all.subspan(from * mine.size(), mine.size())});
  }
  const auto own = all.subspan(rank * mine.size(), mine.size());
  if (!mine.empty() && own.data() != mine.data()) {
    std::memcpy(own.data(), mine.data(), mine.size());
  }
  transport.exchange(outgoing, incoming);
}

void broadcast(Transport& transport, std::span<std::byte> bytes, int root) {
  const int size = transport.size();
  TRESTLE_ASSERT(root >= 0 && root < size, "root {} of {} ranks", root, size);
  // Counted from the root, rank v hears from v without its lowest set bit, and then speaks to
  // v + 1, v + 2, v + 4 ... below that bit.
  const int v = (transport.rank() - root + size) % size;
  const auto real = [&](int counted) { return (counted + root) % size; };
  int bit = 1;
  while (bit < size && (v & bit) == 0) bit <<= 1;
  if (v != 0) transport.exchange({}, std::array{Incoming{real(v - bit), bytes}});
  std::vector<Outgoing> outgoing;
  for (bit >>= 1; bit > 0; bit >>= 1) {
    if (v + bit < size) outgoing.push_back({real(v + bit), bytes});
  }
  transport.exchange(outgoing, {});
}

void barrier(Transport& transport) {
  const int rank = transport.rank(), size = transport.size();
  const std::byte token{1};
  std::byte heard{};
  // After round k a rank has heard, through others, from the 2^(k+1) - 1 ranks before it.
  for (int distance = 1; distance < size; distance *= 2) {
    transport.exchange(std::array{Outgoing{(rank + distance) % size, {&token, 1}}},
                       std::array{Incoming{(rank + size - distance) % size, {&heard, 1}}});
  }
}

}  // namespace trestle::dist
