#include "dist/mpi_transport.h"

#include "base/error.h"
#include "dist/mpi_check.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace trestle::dist {
namespace {

using Clock = std::chrono::steady_clock;

// A message in flight is polled eagerly; a rank that waits long (for another's file or picture)
// leaves the core to those who work.
constexpr auto kEagerPolling = std::chrono::milliseconds(100);
constexpr auto kPatientPause = std::chrono::microseconds(100);

constexpr int kTag = 1;  // order, not tags, matches messages: every rank makes the same calls

class MpiOperation : public Operation {
 public:
  // Delegates, so that the destructor takes back what was started when a later message throws.
  MpiOperation(int rank, MPI_Comm comm, size_t piece_bytes, std::span<const Outgoing> outgoing,
               std::span<const Incoming> incoming)
      : MpiOperation(rank) {
    // Receives first: a message that finds its buffer waiting is not copied through a spare one.
    for (const Incoming& message : incoming) {
      for_each_piece(message.bytes, piece_bytes, [&](std::span<std::byte> piece) {
        MPI_Request& request = add({message.from, piece.size()});
        ++receives_;
        TRESTLE_MPI(MPI_Irecv(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, message.from,
                              kTag, comm, &request));
      });
    }
    for (const Outgoing& message : outgoing) {
      for_each_piece(message.bytes, piece_bytes, [&](std::span<const std::byte> piece) {
        MPI_Request& request = add({message.to, piece.size()});
        TRESTLE_MPI(MPI_Isend(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, message.to,
                              kTag, comm, &request));
      });
    }
    statuses_.resize(requests_.size());
  }

  ~MpiOperation() override {
    // Only after an error: take back what no peer has answered yet; let the library finish the
    // rest.
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      if (i < receives_) MPI_Cancel(&requests_[i]);
      MPI_Request_free(&requests_[i]);
    }
  }

  void wait() override {
    const auto start = Clock::now();
    while (!test()) {
      if (Clock::now() - start < kEagerPolling) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(kPatientPause);
      }
    }
  }

  bool test() override {
    if (done_) return true;
    int all_done = 0;
    const int code = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all_done,
                                 statuses_.data());
    if (code == MPI_ERR_IN_STATUS) throw_failed_message();
    TRESTLE_MPI(code);
    if (!all_done) return false;
    done_ = true;
    for (size_t i = 0; i < receives_; ++i) {
      int bytes = 0;
      TRESTLE_MPI(MPI_Get_count(&statuses_[i], MPI_BYTE, &bytes));
      if (static_cast<size_t>(bytes) != pieces_[i].bytes)
        throw_other_size(i, fmt::format("{}", bytes));
    }
    return true;
  }

 private:
  explicit MpiOperation(int rank) : rank_(rank) {}

  struct Piece {
    int peer;
    size_t bytes;
  };

  template <class Byte, class F>
  static void for_each_piece(std::span<Byte> bytes, size_t piece_bytes, F&& f) {
    for (size_t at = 0; at < bytes.size(); at += piece_bytes) {
      f(bytes.subspan(at, std::min(piece_bytes, bytes.size() - at)));
    }
  }

  MPI_Request& add(Piece piece) {
    pieces_.push_back(piece);
    return requests_.emplace_back(MPI_REQUEST_NULL);
  }

  [[noreturn]] void throw_failed_message() {
    for (size_t i = 0; i < statuses_.size(); ++i) {
      const int code = statuses_[i].MPI_ERROR;
      if (code == MPI_SUCCESS || code == MPI_ERR_PENDING) continue;
      if (i < receives_ && code == MPI_ERR_TRUNCATE) throw_other_size(i, "more");
      char buffer[MPI_MAX_ERROR_STRING] = "";
      fail(ExitCode::environment,
           "rank {} could not exchange {} bytes with rank {} ({}). Look for the first error that "
           "any rank reported.",
           rank_, pieces_[i].bytes, pieces_[i].peer, mpi_error_text(code, buffer));
    }
    fail(ExitCode::environment, "MPI_Testall failed and names no message");
  }

  [[noreturn]] void throw_other_size(size_t i, const std::string& arrived) {
    throw_size_mismatch(rank_, pieces_[i].peer, pieces_[i].bytes, arrived);
  }

  int rank_;
  bool done_ = false;
  size_t receives_ = 0;  // requests_[0, receives_) are receives, the others sends
  std::vector<MPI_Request> requests_;
  std::vector<Piece> pieces_;
  std::vector<MPI_Status> statuses_;
};

class MpiTransport : public Transport {
 public:
  /// Takes the communicator over.
  MpiTransport(MPI_Comm comm, size_t piece_bytes) : comm_(comm), piece_bytes_(piece_bytes) {
    TRESTLE_MPI(MPI_Comm_rank(comm_, &rank_));
    TRESTLE_MPI(MPI_Comm_size(comm_, &size_));
  }

  ~MpiTransport() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  std::shared_ptr<Transport> split(int color, int key) override {
    MPI_Comm part = MPI_COMM_NULL;
    TRESTLE_MPI(MPI_Comm_split(comm_, color, key, &part));
    return std::make_shared<MpiTransport>(part, piece_bytes_);
  }

  std::unique_ptr<Operation> start(std::span<const Outgoing> outgoing,
                                   std::span<const Incoming> incoming) override {
    return std::make_unique<MpiOperation>(rank_, comm_, piece_bytes_, outgoing, incoming);
  }

 private:
  MPI_Comm comm_;
  size_t piece_bytes_;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

std::shared_ptr<Transport> make_mpi_world_transport(size_t piece_bytes) {
  int started = 0, finalized = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&finalized);
  TRESTLE_ASSERT(started && !finalized, "Communicator::world() needs a live MpiRuntime");
  MPI_Comm comm = MPI_COMM_NULL;
  TRESTLE_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  return std::make_shared<MpiTransport>(comm, piece_bytes);
}

}  // namespace trestle::dist
