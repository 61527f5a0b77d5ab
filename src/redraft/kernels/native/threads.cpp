// The pool behind parallel_for: workers look for the next job for a moment, then sleep.
#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "abi.h"

#ifndef _WIN32
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace redraft {
namespace {

constexpr int max_threads = 1024;
// Between two kernels of one step a worker should find the next without a system call; between two steps it should not
// take a processor from others.
constexpr auto spin_time = std::chrono::microseconds(20);

// Set on a thread while it runs tasks, so that a parallel_for inside a task runs serially.
thread_local bool inside_task = false;

void pause() {
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Whether ready() held within the time that is worth spinning.
template <class Ready>
bool spin_until(const Ready& ready) {
    const auto end = std::chrono::steady_clock::now() + spin_time;
    do {
        for (int turn = 0; turn < 32; ++turn) {
            if (ready()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    return ready();
}

// Tasks started on this thread run their own parallel_for calls serially while one of these lives.
struct InsideTask {
    InsideTask() { inside_task = true; }
    ~InsideTask() { inside_task = false; }
};

class Pool {
public:
    explicit Pool(int threads) : threads_(threads) {}

    int threads() const { return threads_.load(std::memory_order_relaxed); }

    void set_threads(int count) {
        const std::lock_guard<std::mutex> turn(turn_);
        threads_ = count;
        // Workers start at the next job, so a process that computes nothing starts none.
        if (static_cast<int>(workers_.size()) > count - 1) stop();
    }

    void run(int count, void (*task)(const void*, int), const void* context) {
        const std::lock_guard<std::mutex> turn(turn_);
        start();
        task_ = task;
        context_ = context;
        count_ = count;
        next_.store(0, std::memory_order_relaxed);
        // Sequentially consistent, as are sleeping_ and helping_: either the worker sees the job or we see the worker.
        epoch_.fetch_add(1);
        wake(std::min(count - 1, sleeping_.load()));
        work();
        // From here no worker enters. One that never woke is not waited for: a short job must not cost a wake-up.
        epoch_.fetch_add(1);
        const auto left = [this] { return helping_.load() == 0; };
        if (spin_until(left)) return;
        std::unique_lock<std::mutex> lock(mutex_);
        waiting_ = true;
        done_.wait(lock, left);
        waiting_ = false;
    }

    void shut_down() {
        const std::lock_guard<std::mutex> turn(turn_);
        threads_ = 1;
        stop();
    }

private:
    void start() {
        const int wanted = threads() - 1;
        if (static_cast<int>(workers_.size()) == wanted) return;
        stopping_ = false;
#ifndef _WIN32
        // Signals are the main thread's business: workers inherit a mask that blocks all.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
        try {
            workers_.reserve(wanted);
            while (static_cast<int>(workers_.size()) < wanted) workers_.emplace_back([this] { serve(); });
        } catch (const std::system_error&) {
            // The system gives no more threads. The work is done by those there are.
        }
#ifndef _WIN32
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
    }

    void stop() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (std::thread& worker : workers_) worker.join();
        workers_.clear();
    }

    void wake(int count) {
        if (count <= 0) return;
        // Whoever has said that it sleeps but does not yet wait holds the mutex; pass it before notifying.
        { const std::lock_guard<std::mutex> lock(mutex_); }
        for (int worker = 0; worker < count; ++worker) wake_.notify_one();
    }

    void work() {
        const InsideTask guard;
        for (int index; (index = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task_(context_, index);
    }

    // A worker: joins every job that is open, until the pool stops.
    void serve() {
        std::uint64_t seen = 0;
        const auto ready = [&] { return stopping_.load() || is_open(epoch_.load(), seen); };
        for (;;) {
            if (!spin_until(ready)) {
                std::unique_lock<std::mutex> lock(mutex_);
                ++sleeping_;
                wake_.wait(lock, ready);
                --sleeping_;
            }
            if (stopping_.load()) return;
            const std::uint64_t epoch = epoch_.load();
            if (!is_open(epoch, seen)) continue;
            ++helping_;
            // The job may have closed, and another opened, before we were counted; only the counted may look at it.
            if (epoch_.load() == epoch) {
                work();
                seen = epoch;
            }
            if (--helping_ == 0 && waiting_.load()) {
                { const std::lock_guard<std::mutex> lock(mutex_); }
                done_.notify_one();
            }
        }
    }

    static bool is_open(std::uint64_t epoch, std::uint64_t seen) { return epoch % 2 == 1 && epoch != seen; }

    std::mutex turn_;  // held by the thread whose job runs
    std::atomic<int> threads_;
    std::vector<std::thread> workers_;

    // The job. Written only between jobs, when no worker is counted in helping_.
    void (*task_)(const void*, int) = nullptr;
    const void* context_ = nullptr;
    int count_ = 0;
    // On lines of their own: every index taken writes next_, and idle workers read epoch_ all the time.
    alignas(64) std::atomic<int> next_{0};
    alignas(64) std::atomic<std::uint64_t> epoch_{0};  // odd while a job is open
    alignas(64) std::atomic<int> helping_{0};          // workers in, or looking at, the job

    std::mutex mutex_;  // for the two conditions
    std::condition_variable wake_, done_;
    std::atomic<int> sleeping_{0};
    std::atomic<bool> waiting_{false}, stopping_{false};
};

// Never destroyed: a daemon thread of Python may still call while the process exits.
Pool* pool = new Pool(1);

#ifndef _WIN32

// Only the forking thread lives on in a child. The pool it inherits has dead workers and perhaps locked mutexes.
void replace_pool_in_child() {
    inside_task = false;
    pool = new Pool(pool->threads());
}

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, replace_pool_in_child);

// Ends the workers before the library's code is unmapped. Windows unloads under a lock that ending threads need, so
// there they end with the process.
struct AtUnload {
    ~AtUnload() { pool->shut_down(); }
};
const AtUnload at_unload;

#endif

}  // namespace

int threads() { return pool->threads(); }

void parallel_run(int count, void (*task)(const void*, int), const void* context) {
    if (count > 1 && threads() > 1 && !inside_task) {
        pool->run(count, task, context);
    } else {
        for (int index = 0; index < count; ++index) task(context, index);
    }
}

}  // namespace redraft

REDRAFT_EXPORT int redraft_threads() { return redraft::threads(); }

// Uses as many threads as asked for, within 1 and 1,024, and returns how many.
REDRAFT_EXPORT int redraft_set_threads(int count) {
    const int chosen = std::clamp(count, 1, redraft::max_threads);
    redraft::pool->set_threads(chosen);
    return chosen;
}
