// SPDX-License-Identifier: GPL-2.0-only
// Threads of C++: thread-local values, a mutex, a condition variable, sleeps, and sums that must come out right.
#include <chrono>
#include <condition_variable>
#include <cmath>
#include <cstdio>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

static thread_local std::string local = "unset";
static std::mutex mutex;
static std::condition_variable turn;
static long turns[6], wrong;
static bool over;

static double block(double seed)
{
	double value = seed, total = 0;
	for (int step = 1; step < 3000; step++) {
		value = 3.99 * value * (1 - value);
		total += std::sqrt(value) / step;
	}
	return total;
}

static void work(int number)
{
	local = "local " + std::to_string(number);
	const double right = block(0.1 + number / 100.0);
	for (;;) {
		{
			std::unique_lock<std::mutex> lock(mutex);
			if (number % 3 == 0)
				turn.wait_for(lock, std::chrono::milliseconds(20), [] { return over; });
			wrong += block(0.1 + number / 100.0) != right || local != "local " + std::to_string(number);
			turns[number]++;
			if (over)
				return;
		}
		if (number % 3 == 1)
			std::this_thread::sleep_for(std::chrono::milliseconds(5));
	}
}

int main()
{
	std::vector<std::thread> threads;
	for (int number = 0; number < 6; number++)
		threads.emplace_back(work, number);
	std::promise<int> promise;
	std::thread waiter([&] { promise.get_future().wait(); });
	dprintf(1, "ready\n");
	while (access("go", F_OK))
		std::this_thread::sleep_for(std::chrono::milliseconds(2));
	{
		std::lock_guard<std::mutex> lock(mutex);
		over = true;
		for (long &one : turns)
			one = 0;
	}
	turn.notify_all();
	promise.set_value(1);
	waiter.join();
	bool all = true;
	for (auto &one : threads)
		one.join();
	for (long one : turns)
		all = all && one;
	try {
		throw std::string("caught");
	} catch (const std::string &word) {
		dprintf(1, "%s, wrong %ld, turns of all %d\n", word.c_str(), wrong, all);
	}
}
